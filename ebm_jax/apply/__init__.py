"""What a trained model is good for: sampling now, refining, in-painting, de-noising and composing
as methods come in."""
