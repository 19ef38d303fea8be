//! Nothing but tests: see `tests/shipped.rs`. The features of this package are those of larder.
