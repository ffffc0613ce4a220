//! The client by itself.

use latchkey_client::{DEFAULT_TIMEOUT, Login, Reason, Scope, ValidateOptions, error_reason};

use super::asks;
use crate::support::{
    client::PASSWORD,
    proxy::{Proxy, ProxyMode},
    server::{Server, Store},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logging_in_and_out_and_what_is_true_of_a_token() {
    let server = Server::start(Store::Embedded).await;
    let user_id = server.client.user_with_roles("anna", &["staff"]).await;
    let client = asks(server.app.grpc, "");
    let status = client.login(Login::new("anna", "wrong", "phone")).await.unwrap_err();
    assert_eq!(error_reason(&status).as_deref(), Some("INVALID_CREDENTIALS"));

    let one = client.login(Login::new("anna", PASSWORD, "phone")).await.unwrap();
    assert!(one.displaced.is_empty());
    let identity =
        client.validate(&one.token, ValidateOptions::default()).await.unwrap().into_result().unwrap();
    assert_eq!(identity.session_id, one.identity.session_id);
    assert_eq!((&*identity.user_id, &*identity.username), (user_id.as_str(), "anna"));
    assert_eq!((&*identity.slot, &*identity.device), ("default", "phone"));
    assert!(identity.has_role("staff"));
    assert!(identity.issued_at < identity.idle_expires_at && identity.idle_expires_at < identity.expires_at);

    let two = client.login(Login::new("anna", PASSWORD, "tablet")).await.unwrap();
    assert_eq!(two.displaced.len(), 1);
    assert_eq!(two.displaced[0].device, "phone");
    let rejection =
        client.validate(&one.token, ValidateOptions::default()).await.unwrap().into_result().unwrap_err();
    let native = server.client.rejection(&one.token).await;
    assert_eq!((rejection.reason, rejection.name()), (Reason::Replaced, "REPLACED"));
    assert_eq!((rejection.by_device.as_str(), rejection.terminal), ("tablet", true));
    assert_eq!(rejection.message, native.message);
    assert_eq!(rejection.at.map(prost_types::Timestamp::from), native.at);

    let late = client.logout(&one.token, Scope::This).await.unwrap();
    assert_eq!((late.ended, late.rejection.unwrap().reason), (0, Reason::Replaced));
    assert_eq!(client.logout(&two.token, Scope::This).await.unwrap().ended, 1);
    for (token, wanted) in
        [(two.token.as_str(), Reason::LoggedOut), ("rubbish", Reason::Malformed), ("", Reason::Malformed)]
    {
        let rejection =
            client.validate(token, ValidateOptions::default()).await.unwrap().into_result().unwrap_err();
        assert_eq!(rejection.reason, wanted);
    }
    let none = client.logout("", Scope::All).await.unwrap();
    assert_eq!((none.ended, none.rejection.unwrap().reason), (0, Reason::Malformed), "it is not sent");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_is_no_verdict() {
    let server = Server::start(Store::Embedded).await;
    server.client.user("anna").await;
    let token = server.client.login("anna", "phone").await.token;
    let proxy = Proxy::to(server.app.grpc.port()).await;
    let client = asks(proxy.address, "");
    let ask = async || client.validate(&token, ValidateOptions::default()).await;
    assert!(ask().await.unwrap().is_live());
    for mood in [ProxyMode::Stall, ProxyMode::Disconnect] {
        proxy.set(mood);
        let begun = std::time::Instant::now();
        assert!(ask().await.is_err(), "{mood:?}");
        assert!(begun.elapsed() < DEFAULT_TIMEOUT * 2, "{mood:?} took {:?}", begun.elapsed());
    }
    proxy.set(ProxyMode::Forward);
    assert!(ask().await.unwrap().is_live());
}
