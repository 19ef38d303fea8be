//! Reads the reply of Redis to `INFO`.

use std::hash::Hasher;

/// Returns the value of a field in the reply of INFO.
pub(in crate::store::redis) fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim)
}

/// Returns a hash over the run id, which changes when a server restarts, and the replication id, which changes when a
/// replica replaces it.
pub(super) fn history(info: &str) -> u64 {
    // SipHash with its fixed zero keys, so that all processes agree.
    #[expect(
        deprecated,
        reason = "the hash must be the same in every process and every release"
    )]
    let mut hasher = std::hash::SipHasher::new();
    for name in ["run_id", "master_replid"] {
        hasher.write(field(info, name).unwrap_or_default().as_bytes());
        hasher.write_u8(0);
    }
    hasher.finish()
}
