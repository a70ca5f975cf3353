//! Every switch changes something.
