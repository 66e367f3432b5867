"""Applications of trained models: sampling, refining, in-painting, interpolating, de-noising."""
