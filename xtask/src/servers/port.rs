//! A free TCP port on the loopback interface, reserved against other runs of this program.
//! A port that is merely free when asked for may be taken before the server binds it.
//! 1. Candidates lie below the range the system hands out to outgoing connections. 2. Binding the
//!    same number on 127.0.0.2 reserves it: every user of this scheme tries that first. 3. Binding
//!    and releasing it on 127.0.0.1, where the server will listen, shows that no stranger has it.
//!
//! Invariant: of all processes that use this scheme, one holds a port; `tests/support` uses it too.

use std::io::{self, ErrorKind};
use std::net::TcpListener;

use crate::failure::{Failure, Outcome};

const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

/// A reserved port; the reservation ends with this value.
#[derive(Debug)]
pub(crate) struct Port {
    number: u16,
    _reservation: Option<TcpListener>,
}

impl Port {
    /// Finds and reserves a port.
    pub(crate) fn reserve() -> Outcome<Self> {
        // Processes start their search at different places; correctness does not depend on it.
        let spread = std::process::id().wrapping_mul(7919) % u32::from(COUNT);
        let spread = u16::try_from(spread).expect("a remainder is smaller than its divisor");
        for step in 0..COUNT {
            let number = FIRST + (spread + step) % COUNT;
            if let Ok(reservation) = claim(number) {
                return Ok(Self {
                    number,
                    _reservation: reservation,
                });
            }
        }
        Err(Failure::message("found no free TCP port on 127.0.0.1"))
    }

    pub(crate) fn number(&self) -> u16 {
        self.number
    }
}

fn claim(number: u16) -> io::Result<Option<TcpListener>> {
    let reservation = match TcpListener::bind(("127.0.0.2", number)) {
        Ok(listener) => Some(listener),
        // Systems other than Linux answer on 127.0.0.1 only; they go without a reservation.
        Err(error) if error.kind() == ErrorKind::AddrNotAvailable => None,
        Err(error) => return Err(error),
    };
    TcpListener::bind(("127.0.0.1", number))?;
    Ok(reservation)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_port_is_free_and_not_handed_out_twice() {
        let first = Port::reserve().unwrap();
        let second = Port::reserve().unwrap();
        assert_ne!(first.number(), second.number());
        TcpListener::bind(("127.0.0.1", first.number())).unwrap();
    }
}
