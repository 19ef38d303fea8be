//! What a write does to its row: it stores the row, or deletes it. Generic over the form of the row and of the id.

/// The row after the write, or the id of a deleted row. `R` is the row, `I` its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowChange<R, I> {
    /// The write stores this row.
    Row(R),
    /// The write deletes the row with this id.
    Deletion(I),
}
