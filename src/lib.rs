//! facade, replaced soon
pub use larder_derive::{Cached, Columns};
pub use larder_runtime::*;
#[doc(hidden)]
pub use larder_runtime::private as __private;
