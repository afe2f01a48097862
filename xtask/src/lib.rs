//! Builds, boots, tests and measures Cairn images.
