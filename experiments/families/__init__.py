"""What a family of methods builds from its settings."""
