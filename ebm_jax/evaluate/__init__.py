"""What a trained model knows, and how that is measured: every figure comes with its protocol."""
