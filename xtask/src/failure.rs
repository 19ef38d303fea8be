//! Why a command ended early, and the exit status that says so.
//! Scripts and CI decide by the status, so the status of a child must not be lost on the way.
//!
//! Invariant: no failure maps to status zero.

use std::fmt;
use std::process::ExitStatus;

/// The result of every step.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

/// Why a command ended early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line makes no sense.
    Usage(String),
    /// Something this program wanted to do did not work.
    Message(String),
    /// A child ended with a status other than zero.
    Child { what: String, status: ExitStatus },
    /// The same, and its own last line has told why.
    Told { status: ExitStatus },
    /// A signal asked this program to end.
    Interrupted(i32),
}

impl Failure {
    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self::Usage(text.into())
    }

    pub(crate) fn message(text: impl Into<String>) -> Self {
        Self::Message(text.into())
    }

    /// The status this program exits with.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Message(_) => 1,
            // A child that was killed has no code of its own.
            Self::Child { status, .. } | Self::Told { status } => status
                .code()
                .and_then(|code| u8::try_from(code).ok())
                .filter(|&c| c != 0)
                .unwrap_or(1),
            Self::Interrupted(signal) => u8::try_from(128 + signal).unwrap_or(130),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text) => write!(f, "{text}\n\n{}", crate::HELP),
            Self::Message(text) => f.write_str(text),
            Self::Child { what, status } => write!(f, "`{what}` failed ({status})"),
            Self::Told { status } => write!(f, "failed ({status})"),
            Self::Interrupted(signal) => write!(f, "stopped by signal {signal}"),
        }
    }
}

impl From<lexopt::Error> for Failure {
    fn from(error: lexopt::Error) -> Self {
        Self::Usage(error.to_string())
    }
}

/// Puts what was attempted in front of an error of the system.
pub(crate) trait Attempt<T> {
    /// Turns the error into `failed to {what}: {error}`.
    fn attempt(self, what: impl FnOnce() -> String) -> Outcome<T>;
}

impl<T, E: fmt::Display> Attempt<T> for Result<T, E> {
    fn attempt(self, what: impl FnOnce() -> String) -> Outcome<T> {
        self.map_err(|error| Failure::Message(format!("failed to {}: {error}", what())))
    }
}
