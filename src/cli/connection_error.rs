//! Finds out why there is no connection to the server. Only a command that has failed does this, over connections of its own.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, lookup_host},
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{self, AlertDescription, pki_types::ServerName},
};

use super::{
    CommandError, Common,
    error::ReportedError,
    server_address::ServerAddress,
    tls::{probe_config, tls_error},
};

/// The time limit of each step.
const STEP_TIMEOUT: Duration = Duration::from_secs(2);

/// The connection preface of HTTP/2 clients with an empty SETTINGS frame (RFC 9113 sections 3.4 and 6.5).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// The type of a SETTINGS frame, which is the first of every HTTP/2 server.
const SETTINGS: u8 = 4;
const HTTP1_REQUEST: &[u8] = b"GET /livez HTTP/1.1\r\nhost: latchkey\r\nconnection: close\r\n\r\n";

/// The protocol that a server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    /// HTTP/2 without TLS.
    Http2,
    /// HTTP/1.1 without TLS.
    Http1,
    Tls,
    /// TLS, with a client certificate.
    TlsWithCertificate,
    Unknown,
}

/// Returns the error of a command that has no connection to its server, because of `cause`.
pub(super) async fn explain(common: &Common, cause: String) -> CommandError {
    let address = match ServerAddress::of(common) {
        Ok(address) => address,
        Err(error) => return error,
    };
    let server = &address.authority;
    let addresses = match timeout(STEP_TIMEOUT * 2, lookup_host(server)).await {
        Ok(Ok(addresses)) => addresses.collect::<Vec<_>>(),
        Ok(Err(error)) => return unresolved(server, &error.to_string()),
        Err(_) => return unresolved(server, "the name server does not answer"),
    };
    let mut reachable = None;
    let mut refused = String::new();
    for candidate in addresses {
        match timeout(STEP_TIMEOUT, TcpStream::connect(candidate)).await {
            Ok(Ok(_)) => {
                reachable = Some(candidate);
                break;
            }
            Ok(Err(error)) => refused = error.to_string(),
            Err(_) => "it did not accept a connection in time".clone_into(&mut refused),
        }
    }
    let Some(reachable) = reachable else {
        return unavailable(
            "SERVER_UNREACHABLE",
            format!(
                "no server answers at {server}: start one with `latchkey serve`, or name it with --server ({refused})"
            ),
        );
    };
    mismatch(&address, protocol(&address, reachable).await).unwrap_or_else(|| {
        let message = format!(
            "the connection to the server at {server} broke: {cause}: try again, or look into its log"
        );
        unavailable("CONNECTION_BROKEN", message)
    })
}

fn unresolved(server: &str, error: &str) -> CommandError {
    let host = server.rsplit_once(':').map_or(server, |(host, _)| host);
    let message = format!("the name {host} does not resolve ({error}): check --server");
    unavailable("NAME_NOT_RESOLVED", message)
}

fn unavailable(reason: &str, message: String) -> CommandError {
    let (code, reason) = ("unavailable", reason.to_owned());
    CommandError::Reported(Box::new(ReportedError { exit_code: 3, code, reason, message, retry_delay: None }))
}

/// The error for a server that speaks another protocol than the command.
fn mismatch(address: &ServerAddress, protocol: Protocol) -> Option<CommandError> {
    let ServerAddress { authority: server, tls, is_local } = address;
    let (reason, message) = match (protocol, tls) {
        (Protocol::Tls | Protocol::TlsWithCertificate, false) => (
            "TLS_REQUIRED",
            format!(
                "the server at {server} uses TLS: write --server https://{server}, with --ca-file if its root certificate is your own"
            ),
        ),
        (Protocol::Http2, true) if *is_local => (
            "TLS_NOT_SUPPORTED",
            format!(
                "the server at {server} does not use TLS, but tls.certificate_file is set here: restart the server with this configuration, or write --server http://{server}"
            ),
        ),
        (Protocol::Http2, true) => (
            "TLS_NOT_SUPPORTED",
            format!("the server at {server} does not use TLS: write --server http://{server}"),
        ),
        (Protocol::Http1, _) => (
            "HTTP_PORT",
            format!(
                "{server} is not a gRPC port, because it speaks HTTP/1.1, as the HTTP port of Latchkey does (listen.http): name the gRPC port with --server (listen.grpc, 50051 by default)"
            ),
        ),
        (Protocol::TlsWithCertificate, true) => (
            "CLIENT_CERTIFICATE_REQUIRED",
            format!(
                "the server at {server} requires a client certificate that it trusts: set --certificate-file and --certificate-key-file"
            ),
        ),
        (Protocol::Http2, false) | (Protocol::Tls, true) | (Protocol::Unknown, _) => return None,
    };
    Some(unavailable(reason, message))
}

async fn protocol(address: &ServerAddress, socket: SocketAddr) -> Protocol {
    let answer = timeout(STEP_TIMEOUT, without_tls(socket, HTTP2_PREFACE)).await;
    // For TLS, only a handshake tells whether the server requires a certificate.
    if let Ok(Ok(protocol @ (Protocol::Http2 | Protocol::Http1))) = answer {
        return protocol;
    }
    match timeout(STEP_TIMEOUT, with_tls(address, socket)).await {
        Ok(Protocol::Unknown) | Err(_) => {}
        Ok(protocol) => return protocol,
    }
    match timeout(STEP_TIMEOUT, without_tls(socket, HTTP1_REQUEST)).await {
        Ok(Ok(protocol)) => protocol,
        Ok(Err(_)) | Err(_) => Protocol::Unknown,
    }
}

/// Sends these bytes, and recognizes the protocol of the answer.
async fn without_tls(socket: SocketAddr, request: &[u8]) -> io::Result<Protocol> {
    let mut connection = TcpStream::connect(socket).await?;
    let answer = exchange(&mut connection, request).await?;
    Ok(match answer {
        [b'H', b'T', b'T', b'P', b'/', b'1'] => Protocol::Http1,
        // An alert of TLS 1.x (RFC 8446 section 5.1).
        [0x15, 0x03, ..] => Protocol::Tls,
        [_, _, _, SETTINGS, ..] => Protocol::Http2,
        _ => Protocol::Unknown,
    })
}

async fn exchange(
    connection: &mut (impl AsyncRead + AsyncWrite + Unpin),
    request: &[u8],
) -> io::Result<[u8; 6]> {
    connection.write_all(request).await?;
    connection.flush().await?;
    let mut answer = [0; 6];
    connection.read_exact(&mut answer).await?;
    Ok(answer)
}

/// Does a handshake that trusts every certificate, and reads one answer.
async fn with_tls(address: &ServerAddress, socket: SocketAddr) -> Protocol {
    let host = address.authority.rsplit_once(':').map_or("", |(host, _)| host).trim_matches(['[', ']']);
    let (Ok(name), Ok(config)) = (ServerName::try_from(host.to_owned()), probe_config()) else {
        return Protocol::Unknown;
    };
    let connecting = async {
        let connection = TcpStream::connect(socket).await?;
        let mut connection = TlsConnector::from(Arc::new(config)).connect(name, connection).await?;
        // With TLS 1.3 a missing client certificate is reported after the handshake.
        exchange(&mut connection, HTTP2_PREFACE).await
    };
    let Err(error) = connecting.await else { return Protocol::Tls };
    match tls_error(&error) {
        Some(rustls::Error::AlertReceived(
            AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            // TLS 1.2 has no alert of its own for it.
            | AlertDescription::HandshakeFailure,
        )) => Protocol::TlsWithCertificate,
        Some(rustls::Error::AlertReceived(_)) => Protocol::Tls,
        _ => Protocol::Unknown,
    }
}
