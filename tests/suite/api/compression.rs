//! Requests compressed with gzip.

use futures_util::{StreamExt as _, stream};
use latchkey::grpc::{
    envoy::service::auth::v3::{CheckRequest, authorization_client::AuthorizationClient},
    pb::{self, validate_response::Verdict},
};
use rstest::rstest;
use tonic::{Code, Request, Response, Status, codec::CompressionEncoding::Gzip, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1alpha::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest,
};

use super::parts;
use crate::{
    gateways::check_request,
    support::{
        client::{Client, login_request},
        http::exchange_http2,
        server::{Server, Store},
    },
};

/// The limit of a message.
const LIMIT: usize = 64 * 1024;

/// A client that compresses requests and accepts compressed answers.
struct Compressing {
    client: Client,
    check: AuthorizationClient<Channel>,
    reflection: ServerReflectionClient<Channel>,
}

impl Compressing {
    async fn of(server: &Server) -> Self {
        let channel = Channel::from_shared(format!("http://{}", server.app.grpc)).unwrap();
        let channel = channel.connect().await.unwrap();
        let mut client = Client::over(channel.clone(), &server.client.admin_key);
        client.auth = client.auth.send_compressed(Gzip).accept_compressed(Gzip);
        client.sessions = client.sessions.send_compressed(Gzip).accept_compressed(Gzip);
        client.accounts = client.accounts.send_compressed(Gzip).accept_compressed(Gzip);
        client.callers = client.callers.send_compressed(Gzip).accept_compressed(Gzip);
        client.health = HealthClient::new(channel.clone()).send_compressed(Gzip).accept_compressed(Gzip);
        let check = AuthorizationClient::new(channel.clone()).send_compressed(Gzip).accept_compressed(Gzip);
        let reflection = ServerReflectionClient::new(channel).send_compressed(Gzip).accept_compressed(Gzip);
        Self { client, check, reflection }
    }

    async fn check(&mut self, question: CheckRequest) -> Result<i32, Status> {
        self.check.check(question).await.map(|answer| answer.into_inner().status.unwrap().code)
    }

    /// Whether the reflection service knows a symbol.
    async fn reflects(&mut self, symbol: String) -> bool {
        let question = MessageRequest::FileContainingSymbol(symbol);
        let question = ServerReflectionRequest { message_request: Some(question), ..Default::default() };
        let answers = self.reflection.server_reflection_info(stream::iter([question])).await.unwrap();
        answers.into_inner().message().await.unwrap().is_some()
    }
}

fn is_plain<T>(answer: &Response<T>) -> bool {
    answer.metadata().get("grpc-encoding").is_none()
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_method_accepts_gzip_and_no_answer_is_compressed(
    #[values(Store::Embedded, Store::Redis)] store: Store,
) {
    let server = Server::start(store).await;

    let mut compressing = Compressing::of(&server).await;
    let client = compressing.client.clone();
    let user_id = client.user("alice").await;
    let login = client.auth.clone().login(login_request("alice", "phone")).await.unwrap();
    assert!(is_plain(&login));
    let token = login.into_inner().token;
    let question_about = || pb::ValidateRequest { token: token.clone(), ..Default::default() };
    let verdict = client.auth.clone().validate(question_about()).await.unwrap();
    assert!(is_plain(&verdict));
    assert!(matches!(verdict.into_inner().verdict, Some(Verdict::Session(_))));

    let questions = stream::iter(
        (0..300)
            .map(|_| pb::ValidateRequest { token: token.clone(), ..Default::default() })
            .collect::<Vec<_>>(),
    );
    let answers = client.auth.clone().validate_stream(questions).await.unwrap();
    assert!(is_plain(&answers));
    let answers: Vec<_> = answers.into_inner().map(Result::unwrap).collect().await;
    assert!(answers.iter().all(|answer| matches!(answer.verdict, Some(Verdict::Session(_)))));
    assert_eq!(answers.len(), 300);

    client.watch(&token).await;
    assert_eq!(client.list_sessions(&user_id).await.len(), 1);
    let callers = client.admin(pb::ListCallersRequest::default());
    client.callers.clone().list_callers(callers).await.unwrap();
    client.serving("").await;
    let bearer = format!("Bearer {token}");
    assert_eq!(compressing.check(check_request(&[("authorization", &bearer)], &[])).await.unwrap(), 0);
    assert!(compressing.reflects("latchkey.v1.AuthService".into()).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_decompresses_beyond_the_limit_fails_as_a_large_one_does() {
    let server = Server::start(Store::Embedded).await;
    let mut compressing = Compressing::of(&server).await;
    let client = compressing.client.clone();
    // The compressed message is a thousandth of this and far below the limit.
    let bomb = || "x".repeat(4 << 20);
    let refused = |status: Status| {
        assert_eq!(parts(&status), (Code::InvalidArgument, "INVALID_REQUEST".into(), vec![String::new()]));
    };
    refused(client.try_login(login_request(&bomb(), "")).await.unwrap_err());
    refused(client.try_validate(&bomb()).await.unwrap_err());
    refused(
        client
            .sessions
            .clone()
            .end_sessions(client.admin(pb::EndSessionsRequest { message: bomb(), ..Default::default() }))
            .await
            .unwrap_err(),
    );
    refused(
        client
            .callers
            .clone()
            .revoke_caller(client.admin(pb::RevokeCallerRequest { name: bomb() }))
            .await
            .unwrap_err(),
    );
    let health = HealthCheckRequest { service: bomb() };
    refused(client.health.clone().check(health).await.unwrap_err());
    refused(compressing.check(check_request(&[("authorization", &bomb())], &[])).await.unwrap_err());

    // The error ends a stream.
    let questions =
        [pb::ValidateRequest::default(), pb::ValidateRequest { token: bomb(), ..Default::default() }];
    let answers = client.auth.clone().validate_stream(stream::iter(questions)).await.unwrap().into_inner();
    let mut answers: Vec<_> = answers.collect().await;
    refused(answers.pop().unwrap().unwrap_err());
    assert!(answers.iter().all(Result::is_ok) && answers.len() == 1, "{answers:?}");
    let account = pb::ImportedAccount { username: bomb(), ..Default::default() };
    let import = pb::ImportAccountsRequest { accounts: vec![account], ..Default::default() };
    let import = client.admin(stream::iter([import]));
    refused(client.accounts.clone().import_accounts(import).await.unwrap_err());
    assert!(!compressing.reflects(bomb()).await);

    // The test is exact to the byte: one byte of tag and three of length precede the token.
    let status = client.try_validate(&"x".repeat(LIMIT - 3)).await.unwrap_err();
    refused(status);
    let Verdict::Rejection(_) = client.try_validate(&"x".repeat(LIMIT - 4)).await.unwrap() else { panic!() };
}

/// Calls `Validate` with a message that is marked as compressed and returns the status.
async fn compressed(server: &Server, encoding: &str, message: &[u8]) -> Status {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let body = [&[1], &length[..], message].concat();
    let headers: [(&str, &[u8]); 3] =
        [("content-type", b"application/grpc"), ("te", b"trailers"), ("grpc-encoding", encoding.as_bytes())];
    let line = "POST /latchkey.v1.AuthService/Validate";
    let (_, headers) = exchange_http2(server.app.grpc, line, &headers, &body).await;
    Status::from_header_map(&headers).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_gzip_fails_and_other_encodings_are_answered_with_the_supported_one() {
    let server = Server::start(Store::Embedded).await;
    for (encoding, message) in [("gzip", &b"rubbish"[..]), ("gzip", b""), ("identity", b"rubbish")] {
        let status = compressed(&server, encoding, message).await;
        let (code, reason, _) = parts(&status);
        assert_eq!(
            (code, reason.as_str()),
            (Code::InvalidArgument, "INVALID_REQUEST"),
            "{encoding} {message:?}"
        );
    }
    let status = compressed(&server, "zstd", b"rubbish").await;
    assert_eq!(status.code(), Code::Unimplemented, "{status:?}");
    assert_eq!(status.metadata().get("grpc-accept-encoding").unwrap(), "gzip,identity");
    // The connection still serves other calls.
    server.client.health.clone().check(Request::new(HealthCheckRequest::default())).await.unwrap();
}
