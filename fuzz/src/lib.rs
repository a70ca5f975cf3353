//! fibp-fuzz
