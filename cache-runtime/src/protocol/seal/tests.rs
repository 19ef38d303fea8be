//! Seals by themselves: what is sealed is read again, and no other entry is.

use super::*;
use crate::protocol::{
    queue_position::{Incarnation, QueuePosition},
    state::{Identity, Lease, Meta},
    tags::Stamp,
    token::Token,
};

const MOST: u64 = 1 << 20;
const OLD: SecretKey = SecretKey::new([7; 32]);
const NEW: SecretKey = SecretKey::new([8; 32]);

fn key(text: &str) -> Key {
    Key::from_bytes(text.as_bytes())
}

fn meta() -> Meta {
    Meta {
        lease: Lease {
            token: Token::numbered(77),
            identity: Identity {
                history: 5,
                fingerprint: 6,
                codec: 1,
            },
        },
        loaded_at_ms: 1_234,
        stamp: None,
    }
}

fn stamped() -> Meta {
    let stamp = Some(Stamp {
        incarnation: 3,
        time: 4,
    });
    Meta { stamp, ..meta() }
}

fn pending(is_deletion: bool) -> Pending {
    Pending {
        position: QueuePosition {
            incarnation: Incarnation::from_bytes([9; 16]),
            number: 12,
        },
        is_deletion,
        meta: meta(),
    }
}

/// Every kind of entry that is sealed.
fn entries(payload: &[u8]) -> Vec<State<&[u8]>> {
    vec![
        State::Value(meta(), payload),
        State::Value(stamped(), payload),
        State::Negative(meta()),
        State::Negative(stamped()),
        State::Pending(pending(false), payload),
        State::Pending(pending(true), b"id"),
    ]
}

fn payload_of<'a>(state: &State<&'a [u8]>) -> &'a [u8] {
    match state {
        State::Value(_, payload) | State::Pending(_, payload) => payload,
        _ => &[],
    }
}

/// Every way to seal, and whether it makes tags.
fn ways() -> Vec<(&'static str, Seals, bool)> {
    let keys = [OLD];
    let seals = |encrypts| Seals::new(&keys, encrypts, PlainEntries::Refuse);
    let mut ways = vec![
        ("nothing", Seals::default(), false),
        ("tags", seals(false), true),
    ];
    if cfg!(feature = "encrypt") {
        ways.push(("encryption", seals(true), true));
    }
    if cfg!(feature = "compress") {
        let compress = |seals: Seals| seals.compress_above(Some(16));
        ways.push(("compression", compress(Seals::default()), false));
        ways.push(("compression and tags", compress(seals(false)), true));
        if cfg!(feature = "encrypt") {
            ways.push(("everything", compress(seals(true)), true));
        }
    }
    ways
}

fn payloads() -> Vec<Vec<u8>> {
    let repeated = b"a row that repeats itself, ".repeat(40);
    // Nothing in it repeats, so that a compression makes it longer.
    let odd = (0..300_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8);
    vec![Vec::new(), b"row".to_vec(), odd.collect(), repeated]
}

/// What a reader gets: the state, with the payload as the codec wrote it.
fn read(seals: &Seals, at: &Key, bytes: &[u8]) -> Result<Vec<u8>, Refusal> {
    let state = entry::decode(bytes);
    let payload = payload_of(&state);
    let opened = seals.open(at, bytes, payload, MOST)?;
    Ok(opened.unwrap_or_else(|| payload.to_vec()))
}

#[test]
fn every_entry_is_read_as_it_was_sealed() {
    let at = key("shop:Item:1");
    for (way, seals, makes_tags) in ways() {
        for payload in payloads() {
            for state in entries(&payload) {
                let bytes = seals.encode(&at, &state);
                assert_eq!(
                    read(&seals, &at, &bytes).unwrap(),
                    payload_of(&state),
                    "{way}"
                );
                let found = entry::decode(&bytes);
                let plain = entry::encode(&state);
                let expected = entry::decode(&plain);
                match (found, expected) {
                    (State::Value(found, _), State::Value(meta, _)) => assert_eq!(found, meta),
                    (State::Pending(found, _), State::Pending(queued, _)) => {
                        assert_eq!(found, queued);
                    }
                    (found, expected) => assert_eq!(found, expected, "{way}"),
                }
                assert!(!makes_tags || bytes[1] == SEALED, "{way}");
            }
        }
    }
}

#[test]
fn nothing_else_is_sealed() {
    let (_, seals, _) = ways().pop().unwrap();
    let loading = State::Loading(meta().lease, Vec::new());
    assert_eq!(seals.encode(&key("k"), &loading), entry::encode(&loading));
}

#[test]
fn the_put_script_gets_the_parts_of_the_same_entry() {
    let at = key("{shop:Order/4:p00}:1");
    for (way, seals, _) in ways() {
        for payload in payloads() {
            for is_deletion in [false, true] {
                let queued = pending(is_deletion);
                let whole = seals.encode(&at, &State::Pending(queued, &payload));
                let (header, changed) = seals.encode_queued(&at, queued, &payload);
                let position = queued.position.to_bytes();
                let payload = changed.as_deref().unwrap_or(&payload);
                assert_eq!([&header[..], &position, payload].concat(), whole, "{way}");
            }
        }
    }
}

/// What the scripts write: `settle` makes a flushed write a row or an absence, `restamp` writes a stamp, `put` a queue position.
#[test]
fn what_the_store_rewrites_is_not_sealed() {
    let at = key("{shop:Order/4:p00}:1");
    let payload = payloads().pop().unwrap();
    for (way, seals, _) in ways() {
        let mut settled = seals.encode(&at, &State::Pending(pending(false), &payload));
        settled[2] = kind::VALUE;
        settled[3] = flag::POSITIONED;
        assert_eq!(read(&seals, &at, &settled).unwrap(), payload, "{way}");

        let deletion = seals.encode(&at, &State::Pending(pending(true), b"id"));
        let start = match deletion[1] {
            SEALED => HEADER_LENGTH + SEAL_LENGTH,
            _ => HEADER_LENGTH,
        };
        let mut settled = deletion[..start].to_vec();
        settled[2] = kind::NEGATIVE;
        settled[3] = 0;
        assert_eq!(entry::decode(&settled), State::Negative(meta()), "{way}");
        assert_eq!(read(&seals, &at, &settled).unwrap(), b"", "{way}");

        let mut stamped = seals.encode(&at, &State::Value(stamped(), &payload));
        let start = match stamped[1] {
            SEALED => HEADER_LENGTH + SEAL_LENGTH,
            _ => HEADER_LENGTH,
        };
        stamped[start + 8] += 1;
        assert_eq!(read(&seals, &at, &stamped).unwrap(), payload, "{way}");
    }
}

/// Whatever one bit an attacker changes, he does not get another row believed, nor a row where there is none.
#[test]
fn no_single_bit_makes_another_entry() {
    let at = key("shop:Item:1");
    for (way, seals, _) in ways().into_iter().filter(|(_, _, makes_tags)| *makes_tags) {
        let payload = b"a row, a row, a row, a row, a row, a row".to_vec();
        for state in entries(&payload) {
            let genuine = seals.encode(&at, &state);
            let is_absent = |state: &State<&[u8]>| {
                let deletes = |pending: &Pending| pending.is_deletion;
                matches!(state, State::Negative(_))
                    || matches!(state, State::Pending(pending, _) if deletes(pending))
            };
            let mut refused = 0;
            for at_bit in 0..genuine.len() * 8 {
                let mut forged = genuine.clone();
                forged[at_bit / 8] ^= 1 << (at_bit % 8);
                let found = entry::decode(&forged);
                if matches!(
                    found,
                    State::Unreadable(_) | State::Loading(..) | State::Writing(_)
                ) {
                    continue;
                }
                match read(&seals, &at, &forged) {
                    Err(_) => refused += 1,
                    Ok(_) if is_absent(&state) => assert!(is_absent(&found), "{way}: {at_bit}"),
                    Ok(read) => {
                        // A stamp or a queue position that is taken for a part of the row, or left out, is not the row.
                        assert_eq!(read, payload, "{way}: bit {at_bit}");
                        assert!(!is_absent(&found), "{way}: bit {at_bit}");
                    }
                }
            }
            assert!(refused > (HEADER_LENGTH - 8) * 8, "{way}: {refused}");
        }
    }
}

#[test]
fn an_entry_is_refused_at_another_key() {
    for (way, seals, _) in ways().into_iter().filter(|(_, _, makes_tags)| *makes_tags) {
        for state in entries(b"a tenant's row") {
            let bytes = seals.encode(&key("shop:Item:1"), &state);
            for other in [
                "shop:Item:2",
                "shop:Item:1 ",
                "shop:Item:",
                "",
                "shop:Other:1",
            ] {
                assert_eq!(read(&seals, &key(other), &bytes), Err(WRONG_TAG), "{way}");
            }
        }
    }
}

#[test]
fn a_cached_row_is_no_queued_write() {
    let at = key("{shop:Order/4:p00}:1");
    let (_, seals, _) = ways().remove(1);
    let cached = seals.encode(&at, &State::Value(meta(), b"an older row"));
    let start = HEADER_LENGTH + SEAL_LENGTH;
    let position = pending(false).position.to_bytes();
    let mut forged = [&cached[..start], &position, &cached[start..]].concat();
    forged[2] = kind::PENDING;
    assert!(matches!(entry::decode(&forged), State::Pending(..)));
    assert_eq!(read(&seals, &at, &forged), Err(NOT_QUEUED));
}

#[test]
fn keys_are_replaced_one_after_the_other() {
    let at = key("k");
    let seals = |keys: &[SecretKey]| Seals::new(keys, false, PlainEntries::Refuse);
    let state = State::Value(meta(), &b"row"[..]);
    let by_old = seals(&[OLD, NEW]).encode(&at, &state);
    let by_new = seals(&[NEW, OLD]).encode(&at, &state);
    for both in [seals(&[OLD, NEW]), seals(&[NEW, OLD])] {
        assert_eq!(read(&both, &at, &by_old).unwrap(), b"row");
        assert_eq!(read(&both, &at, &by_new).unwrap(), b"row");
    }
    assert_eq!(read(&seals(&[NEW]), &at, &by_old), Err(WRONG_TAG));
    assert_eq!(read(&seals(&[NEW]), &at, &by_new).unwrap(), b"row");
}

/// Two keys whose numbers are the same byte are told apart by their tags.
#[test]
fn keys_with_one_number_are_told_apart() {
    let number = |n: u16| {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&n.to_le_bytes());
        (SecretKey::new(bytes), Keys::of(&SecretKey::new(bytes)).id)
    };
    let (first, id) = number(0);
    let second = (1..5_000).map(number).find(|(_, other)| *other == id);
    let (second, _) = second.expect("there are 256 numbers");
    let at = key("k");
    let seals = |keys: &[SecretKey]| Seals::new(keys, false, PlainEntries::Refuse);
    let bytes = seals(std::slice::from_ref(&second)).encode(&at, &State::Negative(meta()));
    assert!(read(&seals(&[first.clone(), second]), &at, &bytes).is_ok());
    assert_eq!(read(&seals(&[first]), &at, &bytes), Err(WRONG_TAG));
}

#[test]
fn plain_entries_are_believed_only_while_keys_are_introduced() {
    let at = key("k");
    let state = State::Value(meta(), &b"row"[..]);
    let without = Seals::default();
    let with = |plain| Seals::new(&[OLD], false, plain);
    let plain = without.encode(&at, &state);
    let sealed = with(PlainEntries::Accept).encode(&at, &state);
    assert_eq!(with(PlainEntries::Store).encode(&at, &state), plain);
    assert_eq!(with(PlainEntries::Refuse).encode(&at, &state), sealed);
    for mode in [
        PlainEntries::Store,
        PlainEntries::Accept,
        PlainEntries::Refuse,
    ] {
        assert_eq!(read(&with(mode), &at, &sealed).unwrap(), b"row", "{mode:?}");
        let expected = match mode {
            PlainEntries::Refuse => Err(NO_TAG),
            _ => Ok(b"row".to_vec()),
        };
        assert_eq!(read(&with(mode), &at, &plain), expected, "{mode:?}");
    }
    // A program without keys reads what is only authenticated.
    assert_eq!(read(&without, &at, &sealed).unwrap(), b"row");
    // Taking the tag away makes a plain entry.
    let mut stripped = sealed;
    stripped[LAYERS] = 0;
    assert_eq!(
        read(&with(PlainEntries::Refuse), &at, &stripped),
        Err(NO_TAG)
    );
}

#[cfg(feature = "encrypt")]
#[test]
fn an_encrypted_row_cannot_be_read_without_the_key() {
    let at = key("k");
    let secret = b"a secret that stands in a row";
    let seals = Seals::new(&[OLD], true, PlainEntries::Refuse);
    for state in entries(secret) {
        let bytes = seals.encode(&at, &state);
        assert!(!bytes.windows(8).any(|part| part == b"a secret"));
        assert_eq!(
            read(&Seals::default(), &at, &bytes),
            Err(ENCRYPTED_FOR_OTHERS)
        );
    }
    // The same row under another token is other bytes.
    let again = Meta {
        lease: Lease {
            token: Token::numbered(78),
            ..meta().lease
        },
        ..meta()
    };
    let start = HEADER_LENGTH + SEAL_LENGTH;
    let first = seals.encode(&at, &State::Value(meta(), secret));
    let second = seals.encode(&at, &State::Value(again, secret));
    assert_ne!(first[start..], second[start..]);
}

#[cfg(feature = "compress")]
#[test]
fn a_compressed_payload_is_smaller_and_bounded() {
    let at = key("k");
    let seals = Seals::default().compress_above(Some(16));
    let long = payloads().pop().unwrap();
    let bytes = seals.encode(&at, &State::Value(meta(), &long));
    assert!(bytes.len() < long.len() / 4, "{}", bytes.len());
    let zeros = [0; 10_000];
    let as_it_is = State::Value(meta(), &zeros[..]);
    assert_eq!(seals.encode(&at, &as_it_is), entry::encode(&as_it_is));
    let payload = payload_of(&entry::decode(&bytes)).to_vec();
    let within = |most| seals.open(&at, &bytes, &payload, most);
    assert_eq!(within(long.len() as u64), Ok(Some(long.clone())));
    assert_eq!(within(long.len() as u64 - 1), Err(UNREADABLE));
    // What cannot be decompressed, and few bytes that claim to be many.
    let claims = [0, 1, 15, 16, 17, 1_000, MOST as u32, u32::MAX];
    let blocks: [&[u8]; 5] = [
        &[],
        &[0],
        &[0xFF; 40],
        &[0x1F, 0, 1, 0, 255, 255, 255],
        &[0xF0; 9],
    ];
    for claim in claims {
        for block in blocks {
            let forged = [&claim.to_le_bytes()[..], block].concat();
            let opened = seals.open(&at, &bytes, &forged, MOST);
            let is_bounded = match &opened {
                Ok(Some(read)) => read.len() == claim as usize,
                Ok(None) => false,
                Err(refusal) => *refusal == UNREADABLE,
            };
            assert!(is_bounded, "{claim} {block:?} {opened:?}");
        }
    }
    for cut in 0..SIZE_LENGTH {
        assert_eq!(
            seals.open(&at, &bytes, &payload[..cut], MOST),
            Err(UNREADABLE)
        );
    }
}

#[test]
fn an_encrypted_payload_without_a_tag_is_refused() {
    let at = key("k");
    let with = Seals::new(&[OLD], false, PlainEntries::Accept);
    let mut bytes = with.encode(&at, &State::Value(meta(), b"row"));
    for layers in [ENCRYPTED, ENCRYPTED | COMPRESSED] {
        bytes[LAYERS] = layers;
        assert_eq!(read(&with, &at, &bytes), Err(WRONG_TAG));
        assert_eq!(read(&Seals::default(), &at, &bytes), Err(WRONG_TAG));
    }
}

#[test]
fn what_a_later_version_does_to_payloads_is_not_guessed() {
    let at = key("k");
    let seals = Seals::new(&[OLD], false, PlainEntries::Accept);
    let mut bytes = seals.encode(&at, &State::Value(meta(), b"row"));
    bytes[LAYERS] |= 8;
    assert_eq!(read(&seals, &at, &bytes), Err(LATER));
    assert_eq!(read(&Seals::default(), &at, &bytes), Err(LATER));
}

#[test]
fn a_secret_key_is_read_from_hexadecimal_digits_and_not_printed() {
    let text = "000102030405060708090a0b0c0d0e0f101112131415161718191A1B1C1D1E1F";
    let bytes: [u8; 32] = std::array::from_fn(|at| at as u8);
    let parsed = SecretKey::from_hex(&format!(" {text}\n"));
    assert_eq!(parsed, Ok(SecretKey::new(bytes)));
    for wrong in [
        "",
        "00",
        &text[1..],
        &format!("{text}00"),
        &text.replace('0', "g"),
        &"+1".repeat(32),
        &"ä".repeat(32),
    ] {
        assert_eq!(SecretKey::from_hex(wrong), Err(InvalidKey), "{wrong}");
    }
    assert_eq!(format!("{:?}", SecretKey::new(bytes)), "SecretKey(..)");
    let seals = format!("{:?}", Seals::new(&[OLD], false, PlainEntries::Refuse));
    assert!(!seals.contains('7'), "{seals}");
}
