//! `rediss://`: whom larder trusts, what it shows of itself, and which names it accepts. A server that it does not trust costs no read.

use larder::{Cache, CacheBuilder, ErrorKind, Origin};
use larder_testing::{port::Port, redis_server::RedisServer};
use rcgen::{CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use sqlx::Sqlite;
use tempfile::TempDir;

use crate::{
    entities::{Item, ItemRepository},
    world::{Kind, World, eventually, unique},
};

/// Somebody who signs certificates.
struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, as PEM.
struct Identity {
    certificate: String,
    key: String,
}

/// What a certificate says. One that is signed by its own name counts as self-signed.
fn named(name: &str, hosts: &[&str]) -> CertificateParams {
    let hosts: Vec<_> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let mut params = CertificateParams::new(hosts).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

impl Authority {
    fn new() -> Self {
        let mut params = named("an authority", &[]);
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    fn sign(&self, names: &[&str]) -> Identity {
        let params = named("somebody", names);
        let key = KeyPair::generate().unwrap();
        Identity {
            certificate: params.signed_by(&key, &self.0).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }
}

/// A server that speaks only TLS, and rows that are cached there.
struct Scene {
    world: World<Sqlite>,
    port: u16,
    _server: RedisServer,
    _folder: TempDir,
}

impl Scene {
    /// Starts a server that shows an identity, and asks for one of this authority if it asks at all.
    async fn open(own: &Identity, clients: Option<&Authority>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, pem: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, pem).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let certificate = file("certificate.pem", &own.certificate);
        let key = file("key.pem", &own.key);
        let trusted = clients.map_or_else(|| own.certificate.clone(), Authority::pem);
        let trusted = file("clients.pem", &trusted);
        let reserved = Port::reserve().unwrap();
        let port = reserved.address().port();
        let server = RedisServer::start_with(&[
            "--tls-port",
            &port.to_string(),
            "--tls-cert-file",
            &certificate,
            "--tls-key-file",
            &key,
            "--tls-auth-clients",
            if clients.is_some() { "yes" } else { "no" },
            "--tls-ca-cert-file",
            &trusted,
        ])
        .await;
        let world = World::<Sqlite>::open(Kind::Memory).await;
        world.put(&Item::new(1, "one")).await;
        Self {
            world,
            port,
            _server: server,
            _folder: folder,
        }
    }

    async fn items(
        &self,
        host: &str,
        set: impl FnOnce(CacheBuilder) -> CacheBuilder,
    ) -> ItemRepository<Sqlite> {
        let builder = Cache::builder()
            .redis(format!("rediss://{host}:{}", self.port))
            .listed(false)
            .namespace(unique("tls"));
        let cache = set(builder).connect().await.unwrap();
        Item::repository(&cache, self.world.pool.clone())
    }

    /// The server is used.
    async fn accepts(&self, host: &str, set: impl FnOnce(CacheBuilder) -> CacheBuilder) {
        let items = self.items(host, set).await;
        eventually("the row comes from the cache", async || {
            items.find_outcome(1).await.unwrap().origin == Origin::Cache
        })
        .await;
    }

    /// The server is not used, and every read is answered.
    async fn refuses(&self, host: &str, set: impl FnOnce(CacheBuilder) -> CacheBuilder) {
        let items = self.items(host, set).await;
        for _ in 0..3 {
            let found = items.find_outcome(1).await.unwrap();
            assert_eq!((found.row.unwrap().id, found.origin), (1, Origin::Database));
        }
        assert_eq!(items.stats().fills_accepted, 0);
    }

    async fn close(self) {
        self.world.database.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_trusted_by_its_root_certificate_and_no_other() {
    let [ours, others] = [Authority::new(), Authority::new()];
    let scene = Scene::open(&ours.sign(&["localhost"]), None).await;
    scene
        .accepts("localhost", |builder| builder.root_certificate(ours.pem()))
        .await;
    scene
        .refuses("localhost", |builder| {
            builder.root_certificate(others.pem())
        })
        .await;
    // The public ones.
    scene.refuses("localhost", |builder| builder).await;
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_trusted_under_its_own_names_only() {
    let ours = Authority::new();
    let trust = |builder: CacheBuilder| builder.root_certificate(ours.pem());
    let scene = Scene::open(&ours.sign(&["127.0.0.1"]), None).await;
    scene.accepts("127.0.0.1", trust).await;
    scene.refuses("localhost", trust).await;
    scene.close().await;
    let scene = Scene::open(&ours.sign(&["cache.internal"]), None).await;
    scene.refuses("localhost", trust).await;
    scene.refuses("127.0.0.1", trust).await;
    scene.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_asks_for_a_certificate_is_shown_it() {
    let [servers, clients, others] = [Authority::new(), Authority::new(), Authority::new()];
    let scene = Scene::open(&servers.sign(&["localhost"]), Some(&clients)).await;
    let trust = |builder: CacheBuilder| builder.root_certificate(servers.pem());
    let shown = |identity: Identity| {
        move |builder: CacheBuilder| {
            trust(builder).client_certificate(identity.certificate, identity.key)
        }
    };
    scene
        .accepts("localhost", shown(clients.sign(&["shop"])))
        .await;
    scene.refuses("localhost", trust).await;
    scene
        .refuses("localhost", shown(others.sign(&["shop"])))
        .await;
    scene.close().await;
}

#[test]
fn certificates_that_are_none_are_refused_and_keys_are_not_printed() {
    let own = Authority::new().sign(&["shop"]);
    let builder = || Cache::builder().redis("rediss://localhost:1").listed(false);
    let (certificate, key) = (|| own.certificate.clone(), || own.key.clone());
    let wrong = [
        (builder().root_certificate("none"), "root_certificate"),
        (builder().root_certificate(key()), "root_certificate"),
        (
            builder().client_certificate("none", key()),
            "client_certificate",
        ),
        (
            builder().client_certificate(key(), key()),
            "client_certificate",
        ),
        (
            builder().client_certificate(certificate(), "none"),
            "the key",
        ),
        (
            builder().client_certificate(certificate(), certificate()),
            "the key",
        ),
    ];
    for (builder, named) in wrong {
        let error = builder.build().map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        let text = error.to_string();
        assert!(text.contains("PEM") && text.contains(named), "{text}");
    }
    let right = builder()
        .root_certificate(certificate())
        .client_certificate(certificate(), key());
    assert!(right.build().is_ok());
    let printed = format!("{:?}", builder().client_certificate(certificate(), key()));
    let secret = own.key.lines().nth(1).unwrap();
    assert!(
        !printed.contains(secret) && printed.contains("bytes"),
        "{printed}"
    );
}
