//! Benchmarks, one command per promise about speed.
