//! Deterministic writers for the parts of an image.
