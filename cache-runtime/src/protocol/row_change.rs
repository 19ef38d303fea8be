//! What a write makes of its row, in whatever form the row and its id are.

/// The whole row, or none. `R` is the row, `I` its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowChange<R, I> {
    /// The whole row.
    Row(R),
    /// No row: the id of the one that is deleted.
    Deletion(I),
}
