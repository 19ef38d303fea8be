//! The scripts: one Lua file per operation, and the text that Redis gets.
//!
//! 1. Each file begins with a comment that says what it does. Before it comes `prelude.lua`, which all scripts share.
//! 2. Redis knows a script by its hash after the first call.
//!
//! Invariant: a script says the same as the function of `protocol/state.rs` that it implements. Tests compare them.
//! Not here: how a script is sent (`send`).

use std::sync::LazyLock;

use redis::Script;

/// The scripts, each after the common prelude.
pub(super) struct Scripts {
    pub(super) acquire: Script,
    pub(super) wait: Script,
    pub(super) fill: Script,
    pub(super) release: Script,
    pub(super) begin: Script,
    pub(super) end: Script,
    pub(super) invalidate: Script,
    pub(super) bind: Script,
    pub(super) acquire_queued: Script,
    pub(super) put: Script,
    /// The text of `put`, for a server that does not know it.
    pub(super) put_text: String,
    pub(super) start_incarnation: Script,
    pub(super) fetch: Script,
    pub(super) settle: Script,
    pub(super) restamp: Script,
    pub(super) change_clock: Script,
    pub(super) drop_damaged: Script,
}

pub(super) static SCRIPTS: LazyLock<Scripts> = LazyLock::new(|| {
    let text = |name| script_text(name).expect("the script is in the table");
    let script = |name| Script::new(&text(name));
    Scripts {
        acquire: script("acquire"),
        wait: script("wait"),
        fill: script("fill"),
        release: script("release"),
        begin: script("begin"),
        end: script("end"),
        invalidate: script("invalidate"),
        bind: script("bind"),
        acquire_queued: script("acquire_queued"),
        put: script("put"),
        put_text: text("put"),
        start_incarnation: script("start_incarnation"),
        fetch: script("fetch"),
        settle: script("settle"),
        restamp: script("restamp"),
        change_clock: script("change_clock"),
        drop_damaged: script("drop_damaged"),
    }
});

/// Returns the text of a script as Redis runs it: flags, the common prelude, the script itself.
pub fn script_text(name: &str) -> Option<String> {
    // A script that removes something must also run when Redis has no memory left, or no write could announce itself.
    let (flags, body) = match name {
        "acquire" => ("", include_str!("acquire.lua")),
        "wait" => ("", include_str!("wait.lua")),
        "fill" => ("", include_str!("fill.lua")),
        "release" => (" flags=allow-oom", include_str!("release.lua")),
        "begin" => (" flags=allow-oom", include_str!("begin.lua")),
        "end" => (" flags=allow-oom", include_str!("end.lua")),
        "invalidate" => (" flags=allow-oom", include_str!("invalidate.lua")),
        "bind" => (" flags=allow-oom", include_str!("bind.lua")),
        "acquire_queued" => (" flags=allow-oom", include_str!("acquire_queued.lua")),
        "put" => ("", include_str!("put.lua")),
        "start_incarnation" => (" flags=allow-oom", include_str!("start_incarnation.lua")),
        "fetch" => (" flags=allow-oom", include_str!("fetch.lua")),
        "settle" => (" flags=allow-oom", include_str!("settle.lua")),
        "restamp" => ("", include_str!("restamp.lua")),
        "change_clock" => (" flags=allow-oom", include_str!("change_clock.lua")),
        "drop_damaged" => (" flags=allow-oom", include_str!("drop_damaged.lua")),
        _ => return None,
    };
    let prelude = include_str!("prelude.lua");
    Some(format!("#!lua{flags}\n{prelude}\n{body}"))
}
