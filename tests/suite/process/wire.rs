//! A correct HTTP/2 client below gRPC, for calls with late messages.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::{SendStream, client, client::ResponseFuture};
use http::Request;
use tokio::net::TcpStream;
use tonic::Status;

pub struct Wire(client::SendRequest<Bytes>);

/// A call without a complete message. Dropping it cancels the call.
pub struct Call {
    message: SendStream<Bytes>,
    response: ResponseFuture,
}

impl Wire {
    pub async fn connect(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).await.unwrap();
        let (requests, connection) = client::handshake(socket).await.unwrap();
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Self(requests.ready().await.unwrap())
    }

    /// Starts a call of `AuthService` without a message.
    pub async fn open(&mut self, method: &str) -> Call {
        self.open_path(&format!("/latchkey.v1.AuthService/{method}")).await
    }

    /// Starts a call without a message.
    pub async fn open_path(&mut self, path: &str) -> Call {
        let request = Request::post(format!("http://latchkey{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .unwrap();
        let mut requests = self.0.clone().ready().await.unwrap();
        let (response, message) = requests.send_request(request, false).unwrap();
        Call { message, response }
    }
}

impl Call {
    /// Sends the prefix of a message of this length without the message.
    pub fn announce(&mut self, length: u32) {
        let prefix = [&[0], &length.to_be_bytes()[..]].concat();
        self.message.send_data(prefix.into(), false).unwrap();
    }

    /// Sends a part of a message.
    pub fn send(&mut self, part: &[u8]) {
        self.message.send_data(part.to_vec().into(), false).unwrap();
    }

    /// Waits for the status of the call, in its headers or trailers.
    pub async fn outcome(self) -> Status {
        let Self { message, response } = self;
        let response = response.await.unwrap();
        if let Some(status) = Status::from_header_map(response.headers()) {
            return status;
        }
        let mut answers = response.into_body();
        while let Some(answer) = answers.data().await {
            answer.unwrap();
        }
        drop(message);
        Status::from_header_map(&answers.trailers().await.unwrap().unwrap()).unwrap()
    }

    /// Waits for the status in the headers.
    pub async fn answer(self) -> Status {
        let headers = self.response.await.unwrap().into_parts().0.headers;
        Status::from_header_map(&headers).unwrap()
    }

    /// Listens until the server has said all, as a client does that has more to ask.
    pub async fn end(self) {
        let Self { message, response } = self;
        let mut answers = response.await.unwrap().into_body();
        while let Some(answer) = answers.data().await {
            answer.unwrap();
        }
        drop(message);
    }
}
