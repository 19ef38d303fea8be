//! How the command ends: its exit codes, and its errors.

use std::{error::Error as StdError, fmt, process::ExitCode};

use larder_runtime::{Error, ErrorKind};

/// How a command ended that has done its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Done {
    /// Nothing is wrong.
    Well,
    /// Something was not there, or something is wrong with what was looked at.
    Found,
}

impl Done {
    pub(crate) fn code(self) -> ExitCode {
        match self {
            Self::Well => ExitCode::SUCCESS,
            Self::Found => ExitCode::from(1),
        }
    }
}

/// Why a command did not do its work.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It was asked for something that does not exist, or cannot be.
    Usage(String),
    /// Redis or the database could not be reached, or has refused.
    Unavailable(Error),
    /// The answer could not be written.
    Output(std::io::Error),
}

impl Failure {
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::Usage(message.into())
    }

    pub(crate) fn code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Usage(_) => 2,
            Self::Unavailable(_) => 3,
            Self::Output(_) => 4,
        })
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error.kind() {
            ErrorKind::Configuration | ErrorKind::Conversion => Self::Usage(error.to_string()),
            _ => Self::Unavailable(error),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Output(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(message) => f.write_str(message),
            Self::Unavailable(error) => {
                write!(f, "{error}")?;
                let mut last = error.to_string();
                let mut source = StdError::source(error);
                while let Some(cause) = source {
                    let text = cause.to_string();
                    if !last.contains(&text) {
                        write!(f, ": {text}")?;
                    }
                    last = text;
                    source = cause.source();
                }
                Ok(())
            }
            Self::Output(error) => write!(f, "failed to write the answer: {error}"),
        }
    }
}
