//! HTTP/2 frames that no correct client sends (RFC 9113).

use super::{
    super::raw::{
        DATA, END_HEADERS, ENHANCE_YOUR_CALM, GOAWAY, HEADERS, REFUSED_STREAM, RST_STREAM, SETTINGS, Socket,
        WINDOW_UPDATE, frame, large_request, request,
    },
    serve,
};
use crate::support::client::Client;

async fn still_serves(client: &Client) {
    super::works(client).await;
}

#[tokio::test]
async fn streams_beyond_the_announced_limits_are_refused() {
    let (process, client, _data) = serve(&[("SERVER__MAX_STREAMS", "5")]).await;
    let mut socket = Socket::connect(process.grpc).await;
    let settings = socket.first(&[SETTINGS]).await.payload;
    let setting = |id: u16| {
        let pairs = settings.chunks(6).map(|pair| (u16::from_be_bytes([pair[0], pair[1]]), &pair[2..]));
        pairs
            .filter(|(found, _)| *found == id)
            .map(|(_, value)| u32::from_be_bytes(value.try_into().unwrap()))
            .next()
    };
    assert_eq!(setting(3), Some(5), "SETTINGS_MAX_CONCURRENT_STREAMS");
    assert_eq!(setting(6), Some(16 * 1024), "SETTINGS_MAX_HEADER_LIST_SIZE");

    for number in 0..7 {
        socket.send(&frame(HEADERS, END_HEADERS, 2 * number + 1, &request(&[]))).await;
    }
    for number in [5, 6] {
        let refused = socket.first(&[RST_STREAM, GOAWAY, HEADERS]).await;
        assert_eq!((refused.kind, refused.stream), (RST_STREAM, 2 * number + 1), "{refused:?}");
        assert_eq!(refused.code(), REFUSED_STREAM);
    }
    still_serves(&client).await;
}

#[tokio::test]
async fn a_flood_of_streams_that_are_opened_and_reset_is_cut_off() {
    let (process, client, _data) = serve(&[]).await;
    let mut socket = Socket::connect(process.grpc).await;
    let mut flood = Vec::new();
    for number in 0..10_000 {
        flood.extend(frame(HEADERS, END_HEADERS, 2 * number + 1, &request(&[])));
        flood.extend(frame(RST_STREAM, 0, 2 * number + 1, &[0, 0, 0, 8]));
    }
    socket.send(&flood).await;
    assert_eq!(socket.first(&[GOAWAY]).await.code(), ENHANCE_YOUR_CALM);
    still_serves(&client).await;
}

#[tokio::test]
async fn calls_that_exceed_their_deadlines_while_the_server_pauses_do_not_end_the_connection() {
    let (process, client, _data) = serve(&[]).await;
    let mut socket = Socket::connect(process.grpc).await;
    // The client fills all streams, resets them and fills them again.
    process.signal("STOP");
    let mut number = 0;
    for _ in 0..4 {
        let first = number;
        for _ in 0..256 {
            let mut call = frame(HEADERS, END_HEADERS, 2 * number + 1, &request(&[]));
            call.extend(frame(DATA, 1, 2 * number + 1, &[0; 5]));
            socket.send(&call).await;
            number += 1;
        }
        for number in first..number {
            socket.send(&frame(RST_STREAM, 0, 2 * number + 1, &[0, 0, 0, 8])).await;
        }
    }
    process.signal("CONT");
    let last = 2 * number + 1;
    let mut call = frame(HEADERS, END_HEADERS, last, &request(&[]));
    call.extend(frame(DATA, 1, last, &[0; 5]));
    socket.send(&call).await;
    loop {
        let answer = socket.first(&[HEADERS, RST_STREAM, GOAWAY]).await;
        assert_ne!(answer.kind, GOAWAY, "{}", String::from_utf8_lossy(&answer.payload));
        if answer.stream == last {
            assert_eq!(answer.kind, HEADERS);
            break;
        }
    }
    still_serves(&client).await;
}

#[tokio::test]
async fn a_flood_of_streams_that_the_server_must_reset_is_cut_off() {
    let (process, client, _data) = serve(&[]).await;
    let mut socket = Socket::connect(process.grpc).await;
    let mut flood = Vec::new();
    for number in 0..2000 {
        flood.extend(frame(HEADERS, END_HEADERS, 2 * number + 1, &request(&[])));
        // A window of that size is a stream error.
        flood.extend(frame(WINDOW_UPDATE, 0, 2 * number + 1, &[0x7f, 0xff, 0xff, 0xff]));
    }
    socket.send(&flood).await;
    assert_eq!(socket.first(&[GOAWAY]).await.code(), ENHANCE_YOUR_CALM);
    still_serves(&client).await;
}

#[tokio::test]
async fn headers_over_16_kib_are_refused() {
    let (process, client, _data) = serve(&[]).await;
    let mut socket = Socket::connect(process.grpc).await;
    // 200 in the static table: the call has reached a method, which answers for its missing message.
    socket.send(&large_request(1, 15 * 1024)).await;
    socket.send(&frame(DATA, 1, 1, &[])).await;
    let served = socket.first(&[HEADERS, RST_STREAM, GOAWAY]).await;
    assert_eq!((served.kind, served.payload[0]), (HEADERS, 0x88), "{served:?}");

    socket.send(&large_request(3, 18 * 1024)).await;
    let refused = socket.first(&[HEADERS, RST_STREAM, GOAWAY]).await;
    assert!(refused.kind != HEADERS || refused.payload[0] != 0x88, "served: {refused:?}");
    still_serves(&client).await;
}
