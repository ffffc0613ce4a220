//! `latchkey health`: asks a running server for its health, for probes of containers.

use std::time::Duration;

use clap::Args;
use http::{Request, StatusCode, header::HOST};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::{net::TcpStream, time::timeout};
use tonic::{Code, body::Body};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use url::form_urlencoded;

use super::{CommandError, Common, client};
use crate::config::ClientCertificate;

#[derive(Args)]
#[command(
    after_help = "Examples:\n  latchkey health\n  latchkey health latchkey.v1.AuthService/Login --server https://latchkey.internal\n  latchkey health --http=127.0.0.1:8081\n\nExit codes: 0 serving, 1 failed, 2 wrong usage, 3 not serving or no answer."
)]
pub(super) struct Health {
    /// The service [default: what Validate needs]
    #[arg(value_name = "SERVICE", default_value = "", hide_default_value = true)]
    service: String,
    /// Ask the HTTP port (/readyz) [default: listen.http]
    #[arg(long, value_name = "HOST:PORT", num_args = 0..=1, require_equals = true, default_missing_value = "", conflicts_with = "server")]
    http: Option<String>,
    /// The timeout of the request
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

impl Health {
    pub(super) async fn run(self, common: &Common) -> Result<(), CommandError> {
        let asked = async {
            match self.http_address(common)? {
                Some(address) => self.ask_http(&address).await,
                None => self.ask_grpc(common).await,
            }
        };
        let answered = timeout(self.timeout, asked).await;
        let serves = answered.map_err(|_| {
            let limit = humantime::format_duration(self.timeout);
            CommandError::Unavailable(format!("the server did not answer within {limit}"))
        })??;
        if !serves {
            return Err(CommandError::Unavailable(format!("{} is not serving", self.subject())));
        }
        let value = json!({ "service": self.service, "status": "SERVING" });
        common.output().print(&value, || "serving".to_owned())
    }

    fn subject(&self) -> &str {
        if self.service.is_empty() { "the server" } else { &self.service }
    }

    /// The address of the HTTP port if it is to be asked. It is asked without `--http`, too, if the gRPC port of the local
    /// server requires a client certificate and none is given, so that one command works in every container.
    fn http_address(&self, common: &Common) -> Result<Option<String>, CommandError> {
        if let Some(address) = self.http.as_deref().filter(|address| !address.is_empty()) {
            let address = address.strip_prefix("http://").unwrap_or(address);
            return Ok(Some(address.trim_end_matches('/').to_owned()));
        }
        if self.http.is_none() && (common.server.is_some() || common.certificate_file.is_some()) {
            return Ok(None);
        }
        let config = common.config()?;
        let needs_certificate =
            config.tls.is_on() && config.tls.client_certificate == ClientCertificate::Required;
        Ok((self.http.is_some() || needs_certificate).then(|| config.listen.http.to_string()))
    }

    async fn ask_grpc(&self, common: &Common) -> Result<bool, CommandError> {
        let mut health = HealthClient::new(client::connect(common, client::CallKind::Unary).await?);
        let request = HealthCheckRequest { service: self.service.clone() };
        let response = health.check(request).await.map_err(|status| match status.code() {
            Code::NotFound => self.unknown(),
            _ => client::command_error(status),
        })?;
        Ok(response.into_inner().status() == ServingStatus::Serving)
    }

    async fn ask_http(&self, address: &str) -> Result<bool, CommandError> {
        let socket = TcpStream::connect(address)
            .await
            .map_err(|error| CommandError::Unavailable(format!("no server answers at {address}: {error}")))?;
        let broke = |error: &dyn std::fmt::Display| {
            CommandError::Unavailable(format!(
                "{address} does not answer like the HTTP port of Latchkey: {error}"
            ))
        };
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket))
            .await
            .map_err(|error| broke(&error))?;
        tokio::spawn(connection);
        let query: String = form_urlencoded::byte_serialize(self.service.as_bytes()).collect();
        let request = Request::get(format!("/readyz?service={query}")).header(HOST, address);
        let request = request.body(Body::empty()).map_err(|error| {
            CommandError::Usage(format!("--http={address} is not an address such as 127.0.0.1:8081: {error}"))
        })?;
        let response = sender.send_request(request).await.map_err(|error| broke(&error))?;
        match response.status() {
            StatusCode::OK => Ok(true),
            StatusCode::SERVICE_UNAVAILABLE => Ok(false),
            StatusCode::NOT_FOUND => Err(self.unknown()),
            status => Err(broke(&status)),
        }
    }

    fn unknown(&self) -> CommandError {
        CommandError::Usage(format!(
            "the server does not know the service {:?}: leave it out, or name one such as latchkey.v1.AuthService/Login",
            self.service
        ))
    }
}
