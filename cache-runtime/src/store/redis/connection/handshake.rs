//! The handshake: what a new connection is asked and sent before it is used.
//!
//! Not here: when connections are made (`connection`), and what is watched afterwards (`watch`).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, Weak, atomic::Ordering},
};

use redis::{Client, PushInfo, RedisError, RedisResult};
use tokio::runtime::Handle;

use super::{
    Connection, Connector, Link, LinkShared, Made, Timeouts, field, on_push, unless_refused,
    watch::suspect_window,
};
use crate::store::{
    failpoint::Mechanism,
    redis::{
        condition::Unavailable,
        direct::Direct,
        heartbeat::{Heartbeat, info},
        messages,
    },
};

/// The maximum length of a command's argument if a server does not report it (the default of Redis).
pub(super) const MAX_ARGUMENT: u64 = 512 << 20;
/// The room that a server's buffer needs in addition to a long argument.
const AROUND_AN_ARGUMENT: u64 = 64 << 10;
/// Settings of a server: it closes a connection that exceeds one of them.
const MAX_BULK: &str = "proto-max-bulk-len";
const QUERY_BUFFER: &str = "client-query-buffer-limit";
const OUTPUT_BUFFER: &str = "client-output-buffer-limit";

impl Connector {
    /// Makes a link, and its message connection.
    pub(super) async fn handshake(self: &Arc<Self>, number: u64) -> Result<Made, Unavailable> {
        let mut connection = self.open(number).await?;
        // A server that is loading its data rejects all commands but INFO.
        unless_refused(redis::cmd("PING").exec_async(&mut connection).await)?;
        // A proxy or an access list may hide INFO. Then a restart is not detected, and stale rows last until their time
        // to live ends.
        let info = unless_refused(info().query_async::<String>(&mut connection).await)?;
        let info = info.unwrap_or_default();
        usable(&info)?;
        let history = self.history_of(&info);
        self.closings.note(history, &info);
        let mut limits = limits(&mut connection).await?;
        let longest = longest_argument(&limits);
        self.longest_argument.store(longest, Ordering::Relaxed);
        self.closings
            .note_output_limits(limits.remove(OUTPUT_BUFFER));
        let messages = self.open_messages(history).await;
        let fenced = self.must_fence(&info, history);
        let link = Link {
            history,
            heartbeat: Arc::new(Heartbeat::new(
                fenced,
                #[cfg(feature = "metrics")]
                Arc::clone(&self.round_trips),
            )),
            connection,
            shared: Arc::new(LinkShared {
                blocking_connection: Mutex::default(),
                large_connection: tokio::sync::Mutex::default(),
                runtime: Handle::current(),
            }),
            number,
            is_large: false,
        };
        let window = if fenced {
            let window = suspect_window(&link).await;
            self.prove_writable(&link).await?;
            Some(window)
        } else {
            None
        };
        Ok(Made {
            link,
            messages,
            window,
        })
    }

    /// Opens the connection of a link.
    async fn open(self: &Arc<Self>, number: u64) -> RedisResult<Connection> {
        let connector = Arc::downgrade(self);
        let Timeouts { connect, response } = self.options.timeouts;
        let hears = self.options.disabled.has(Mechanism::OwnMessages);
        if !hears {
            let connector = Weak::clone(&connector);
            let on_lost = move || {
                if let Some(connector) = connector.upgrade() {
                    connector.disconnected(number);
                }
            };
            let info = self.client.get_connection_info();
            if let Some(direct) = Direct::open(info, connect, response, on_lost).await? {
                return Ok(Connection::Direct(direct));
            }
        }
        let config = self.config().set_push_sender(move |push: PushInfo| {
            on_push(&connector, number, push);
            Ok::<(), redis::aio::SendError>(())
        });
        let opening = self
            .client
            .get_multiplexed_async_connection_with_config(&config);
        let mut connection = opening.await?;
        if hears {
            connection.subscribe(messages::channel()).await?;
        }
        Ok(Connection::Multiplexed(connection))
    }
}

/// Returns the limits of a server, if it reports them.
pub(super) async fn limits(connection: &mut Connection) -> RedisResult<HashMap<String, String>> {
    let mut ask = redis::cmd("CONFIG");
    ask.arg("GET")
        .arg(MAX_BULK)
        .arg(QUERY_BUFFER)
        .arg(OUTPUT_BUFFER);
    Ok(unless_refused(ask.query_async(connection).await)?.unwrap_or_default())
}

/// Returns the maximum length of a command's argument. A server closes a connection that sends a longer one.
pub(super) fn longest_argument(limits: &HashMap<String, String>) -> u64 {
    let limit = |name: &str| limits.get(name)?.parse::<u64>().ok();
    // A server reads an argument into a buffer, which has a limit of its own.
    let buffer = limit(QUERY_BUFFER).map(|limit| limit.saturating_sub(AROUND_AN_ARGUMENT));
    let both = limit(MAX_BULK).into_iter().chain(buffer);
    both.min().unwrap_or(MAX_ARGUMENT)
}

/// Fails for a server that does not order all operations on every key.
pub(super) fn usable(info: &str) -> Result<(), Unavailable> {
    if field(info, "role").is_some_and(|role| role != "master") {
        return Err(Unavailable::new(
            "REPLICA",
            "the server is a replica; connect larder to the primary",
        ));
    }
    if field(info, "redis_mode").is_some_and(|mode| mode == "cluster") {
        return Err(Unavailable::new(
            "CLUSTER",
            "the server is a node of a Redis Cluster, which larder does not support yet; use a server without cluster mode",
        ));
    }
    Ok(())
}

/// The certificates of a connection with TLS, as PEM. Without the feature `tls` there are none.
#[derive(Default)]
pub(crate) struct Certificates {
    /// Whom to trust, instead of the public ones.
    #[cfg(feature = "tls")]
    pub(crate) root: Option<Vec<u8>>,
    /// What the server is shown, and the key of it.
    #[cfg(feature = "tls")]
    pub(crate) client: Option<(Vec<u8>, Vec<u8>)>,
}

#[cfg(feature = "tls")]
impl Certificates {
    /// Returns what is no PEM of the right kind. The client of Redis would take it for no certificate at all.
    pub(crate) fn mistake(&self) -> Option<&'static str> {
        use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
        let is_certificate = |pem: &[u8]| {
            let mut found = CertificateDer::pem_slice_iter(pem).peekable();
            found.peek().is_some() && found.all(|each| each.is_ok())
        };
        match (&self.root, &self.client) {
            (Some(root), _) if !is_certificate(root) => Some(
                "the text given to `CacheBuilder::root_certificate` is not a certificate in PEM",
            ),
            (_, Some((certificate, _))) if !is_certificate(certificate) => Some(
                "the text given to `CacheBuilder::client_certificate` is not a certificate in PEM",
            ),
            (_, Some((_, key))) if PrivateKeyDer::from_pem_slice(key).is_err() => Some(
                "the key given to `CacheBuilder::client_certificate` is not a private key in PEM",
            ),
            _ => None,
        }
    }
}

#[cfg(feature = "tls")]
pub(super) fn client(
    info: redis::ConnectionInfo,
    certificates: Certificates,
) -> Result<Client, RedisError> {
    use rustls::crypto::{CryptoProvider, ring};
    if CryptoProvider::get_default().is_none() {
        // Fails if another caller has just installed one, which is fine too.
        let _installed = ring::default_provider().install_default();
    }
    let certificates = redis::TlsCertificates {
        client_tls: certificates
            .client
            .map(|(client_cert, client_key)| redis::ClientTlsConfig {
                client_cert,
                client_key,
            }),
        root_cert: certificates.root,
    };
    if matches!(info.addr(), redis::ConnectionAddr::TcpTls { .. }) {
        Client::build_with_tls(info, certificates)
    } else {
        Client::open(info)
    }
}

#[cfg(not(feature = "tls"))]
pub(super) fn client(info: redis::ConnectionInfo, _: Certificates) -> Result<Client, RedisError> {
    Client::open(info)
}
