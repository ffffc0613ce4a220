//! Health: of the whole and of each service, with the stores behind them.

use std::time::Duration;

use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

use crate::{
    on_both_stores,
    support::server::{Server, Store},
};

const SERVICES: [&str; 5] = [
    "",
    "latchkey.v1.AuthService",
    "latchkey.v1.SessionService",
    "latchkey.v1.AccountService",
    "latchkey.v1.CallerService",
];

on_both_stores! {
    async fn every_service_has_a_health(server: Server) {
        for service in SERVICES {
            assert_eq!(server.client.serving(service).await, ServingStatus::Serving, "{service}");
        }
        let unknown = HealthCheckRequest { service: "latchkey.v1.Unknown".into() };
        let status = server.client.health.clone().check(unknown).await.unwrap_err();
        assert_eq!(status.code(), Code::NotFound);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_follows_the_store() {
    let mut server = Server::start(Store::Redis).await;
    server.redis.as_mut().unwrap().kill();
    server.client.until(ServingStatus::NotServing, Duration::from_secs(5)).await;
    for service in SERVICES {
        assert_eq!(server.client.serving(service).await, ServingStatus::NotServing, "{service}");
    }
    server.redis.as_mut().unwrap().restart();
    server.client.until(ServingStatus::Serving, Duration::from_secs(5)).await;
}
