//! The peers: how each is started, gets its tokens and is called.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use data_encoding::BASE64;
use jsonwebtoken::Algorithm;
use latchkey::grpc::pb::{ValidateRequest, validate_response::Verdict};
use latchkey_bench::{
    Result,
    core_pinning::CorePinning,
    load::LoadTarget,
    processes::ServerProcess,
    support::{client::Client, redis::RedisServer},
};

use crate::{
    Plan, http, keycloak,
    users::{Credential, Logins, Signer},
};

pub(crate) struct Peer {
    /// Name in the JSON and among the arguments.
    pub(crate) key: &'static str,
    /// Name in the table and in the chart.
    pub(crate) name: &'static str,
    /// The folder with its launcher, below `target/peers`.
    pub(crate) program: &'static str,
    pub(crate) call: Call,
    pub(crate) tokens: Tokens,
    /// Whether the server becomes faster for some time after its start.
    pub(crate) compiles_while_running: bool,
}

/// The request that validates a token.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    /// `latchkey.v1.AuthService/Validate`.
    Grpc,
    /// GET with a bearer token.
    Bearer { path: &'static str },
    /// OAuth 2.0 introspection (RFC 7662), with an id and a secret of the client.
    Introspection { path: &'static str, client: &'static str },
}

impl Call {
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Grpc => "",
            Self::Bearer { path } | Self::Introspection { path, .. } => path,
        }
    }
}

/// The origin of the tokens of a peer.
#[derive(Clone, Copy)]
pub(crate) enum Tokens {
    /// The benchmark signs them, and writes the newest one of each user to Redis.
    Signed(Algorithm),
    SaToken,
    Keycloak,
}

pub(crate) const PEERS: [Peer; 6] = [
    Peer {
        key: "go_hs256",
        name: "Go, HS256",
        program: "go",
        call: Call::Grpc,
        tokens: Tokens::Signed(Algorithm::HS256),
        compiles_while_running: false,
    },
    Peer {
        key: "go_eddsa",
        name: "Go, EdDSA",
        program: "go",
        call: Call::Grpc,
        tokens: Tokens::Signed(Algorithm::EdDSA),
        compiles_while_running: false,
    },
    Peer {
        key: "node",
        name: "Node.js, HS256",
        program: "node",
        call: Call::Grpc,
        tokens: Tokens::Signed(Algorithm::HS256),
        compiles_while_running: true,
    },
    Peer {
        key: "sa_token",
        name: "Sa-Token on Spring Boot",
        program: "sa-token",
        call: Call::Bearer { path: "/validate" },
        tokens: Tokens::SaToken,
        compiles_while_running: true,
    },
    Peer {
        key: "django",
        name: "Django REST Framework, HS256",
        program: "django",
        call: Call::Bearer { path: "/validate" },
        tokens: Tokens::Signed(Algorithm::HS256),
        compiles_while_running: false,
    },
    Peer {
        key: "keycloak",
        name: "Keycloak, introspection",
        program: "keycloak",
        call: keycloak::INTROSPECTION,
        tokens: Tokens::Keycloak,
        compiles_while_running: true,
    },
];

impl Peer {
    /// Whether `scripts/peers.sh` could install the peer.
    pub(crate) fn is_installed(&self) -> bool {
        self.launcher().exists()
    }

    /// Whether all users log in, or only the few: logins with a password take too long for all.
    pub(crate) fn has_all_users(&self) -> bool {
        !matches!(self.tokens, Tokens::Keycloak)
    }

    /// The connections of the load, and the requests in flight on all of them.
    pub(crate) fn connections(&self) -> &'static str {
        if self.call == Call::Grpc { "8 connections with 32 calls each" } else { "32 connections" }
    }

    fn launcher(&self) -> PathBuf {
        self.folder().join("start")
    }

    fn folder(&self) -> PathBuf {
        Path::new("target/peers").join(self.program)
    }

    /// Starts the peer on the core of the servers, for the users of these tokens of Latchkey.
    pub(crate) fn start<'a>(
        &self,
        plan: &Plan,
        pinning: &CorePinning,
        redis: &'a RedisServer,
        latchkey_tokens: &'a [String],
    ) -> Result<RunningPeer<'a>> {
        let mut command = Command::new(std::path::absolute(self.launcher())?);
        command.env("PEER_REDIS_URL", redis.url());
        let start =
            |command| ServerProcess::start(command, |command| pinning.on_server_core(|| command.spawn()));
        let (process, logins) = match self.tokens {
            Tokens::Signed(algorithm) => {
                let signer = Signer::new(algorithm, redis, latchkey_tokens)?;
                command.envs(signer.variables());
                (start(command)?, Logins::Signed(signer))
            }
            Tokens::SaToken => {
                let process = start(command)?;
                let logins = Logins::SaToken(process.grpc);
                (process, logins)
            }
            Tokens::Keycloak => {
                keycloak::write_realm(&self.folder(), plan.hot_users)?;
                keycloak::choose_port(&mut command);
                let process = start(command)?;
                keycloak::wait_until_serving(process.grpc)?;
                let logins = Logins::Keycloak(process.grpc);
                (process, logins)
            }
        };
        Ok(RunningPeer { call: self.call, process, logins })
    }
}

pub(crate) struct RunningPeer<'a> {
    call: Call,
    process: ServerProcess,
    pub(crate) logins: Logins<'a>,
}

impl RunningPeer<'_> {
    /// Requests per second with as much load as the server takes. Every answer is checked.
    pub(crate) fn load(&self, credentials: &Path, duration: Duration) -> Result<f64> {
        match self.call {
            Call::Grpc => load_grpc(self.process.grpc, credentials, duration),
            call => http::load(self.process.grpc, call, credentials, duration),
        }
    }

    /// Checks that the peer decides what Latchkey decides: the latest login wins, a use slides the idle timeout, and a
    /// token with a wrong signature is rejected although it is the newest one of its user.
    pub(crate) async fn check(&self) -> Result<()> {
        let [older, newer] = [self.log_in_first()?, self.log_in_first()?];
        self.expect(&newer, true, "the newest token").await?;
        self.expect(&older, false, "a displaced token").await?;
        if let Logins::Signed(signer) = &self.logins {
            self.expect(&signer.forge(&newer.token)?, false, "a forged token").await?;
            signer.let_idle_until_a_minute_is_left(&newer.token)?;
            self.expect(&newer, true, "an idle session").await?;
            signer.check_idle_timeout(&newer.token)?;
        }
        Ok(())
    }

    fn log_in_first(&self) -> Result<Credential> {
        Ok(self.logins.log_in(0..1)?.remove(0))
    }

    async fn expect(&self, credential: &Credential, accepted: bool, name: &str) -> Result<()> {
        let Credential { token, expected } = credential;
        let bearer = format!("Authorization: Bearer {token}");
        let (is_right, answer) = match self.call {
            Call::Grpc => {
                let client = Client::connect(self.process.grpc, "").await;
                let request = ValidateRequest { token: token.clone(), ..Default::default() };
                let response = client.auth.clone().validate(request).await?.into_inner();
                let is_right = match &response.verdict {
                    Some(Verdict::Session(session)) => accepted && session.session_id == *expected,
                    Some(Verdict::Rejection(_)) => !accepted,
                    None => false,
                };
                (is_right, format!("{response:?}"))
            }
            Call::Bearer { path } => {
                let http::Response { status, body } = http::send(self.process.grpc, path, &[bearer], None)?;
                let is_right =
                    if accepted { status == 200 && body.contains(expected) } else { status == 401 };
                (is_right, format!("{status} {body}"))
            }
            Call::Introspection { path, client } => {
                let credentials = format!("Authorization: Basic {}", BASE64.encode(client.as_bytes()));
                let form = format!("token={token}");
                let http::Response { status, body } =
                    http::send(self.process.grpc, path, &[credentials], Some(&form))?;
                let active = body.contains("\"active\":true") && body.contains(expected);
                let inactive = body.contains("\"active\":false");
                (status == 200 && if accepted { active } else { inactive }, format!("{status} {body}"))
            }
        };
        if is_right { Ok(()) } else { Err(format!("wrong answer to {name}: {answer}").into()) }
    }
}

/// The load of `latchkey bench` on a gRPC server.
pub(crate) fn load_grpc(address: SocketAddr, tokens: &Path, duration: Duration) -> Result<f64> {
    let target = LoadTarget { address, tokens, arguments: &[], real_time: false };
    Ok(target.run(duration, None)?.requests_per_second)
}
