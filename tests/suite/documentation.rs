//! The README and the documents compile as doctests, and their numbers agree with the code.

use larder::journal::format as journal;

#[test]
fn the_format_document_gives_the_numbers_of_the_code() {
    let document = include_str!("../../docs/format.md");
    for line in [
        format!("a header of {} bytes", larder::entry::HEADER_LENGTH),
        format!(
            "| 0 | magic number, `{:#04X}` | all |",
            larder::entry::MAGIC
        )
        .replace("0XCA", "0xCA"),
        format!(
            "| 1 | format: `{}`, or `{}` with a seal | all |",
            larder::entry::PLAIN,
            larder::entry::SEALED
        ),
        format!("has {} bytes more between", larder::entry::SEAL_LENGTH),
        format!("at most {}", larder::state::MAX_INTENTS),
        format!("longer than {} bytes", larder::key::MAX_ID),
        format!("A segment is a header of {} bytes", journal::HEADER_LENGTH),
        format!("| 12..16 | format, `{}` |", journal::FORMAT),
        format!("of a frame, {} bytes and", journal::FRAME_LENGTH),
        format!("at most 2^{} |", journal::MAX_RECORD.ilog2()),
        format!("({} MiB)", larder::journal::SEGMENT_SIZE >> 20),
    ] {
        assert!(
            document.contains(&line),
            "{line:?} is not in docs/format.md"
        );
    }
}

#[test]
fn the_defaults_in_the_documents_are_the_defaults_of_the_code() {
    let policy = larder::policy::Policy::DEFAULT;
    let coherence = include_str!("../../docs/coherence.md");
    let coherence = coherence.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(policy.lease_wait.as_millis(), 100);
    assert!(coherence.contains("(`lease(wait)`, 100 ms)"));
    assert_eq!(policy.intent_ttl.as_secs(), 10);
    assert!(coherence.contains("An intent lives for 10 s"));
    let attributes = include_str!("../../cache-derive/docs/attributes.md");
    assert!(attributes.contains("**Default** `intent(ttl = \"10s\")`"));
    assert_eq!(policy.lease_ttl.as_secs(), 5);
    assert!(attributes.contains("**Default** `lease(ttl = \"5s\", wait = \"100ms\")`"));
}

#[test]
fn write_behind_md_has_the_defaults_and_the_counters_of_the_code() {
    let document = include_str!("../../docs/write-behind.md");
    let queue = larder::policy::QueuePolicy::DEFAULT;
    assert_eq!((queue.batch, queue.max_pending), (1_000, 100_000));
    for line in [
        format!("**`partitions`** ({})", queue.partitions),
        "**`batch`** (1,000)".to_owned(),
        format!("`linger` ({} ms)", queue.linger.as_millis()),
        "**`max_pending`** (100,000)".to_owned(),
    ] {
        assert!(
            document.contains(&line),
            "{line:?} is not in docs/write-behind.md"
        );
    }
    let counters = larder::Stats::default();
    let names = counters.iter().map(|(name, _)| name);
    let of_queues: Vec<_> = names.skip_while(|name| *name != "flushed_writes").collect();
    assert!(
        !of_queues.is_empty(),
        "no counter of a queue was looked for"
    );
    for name in of_queues {
        assert!(
            document.contains(&format!("`{name}`")),
            "{name} is not in docs/write-behind.md"
        );
    }
}
