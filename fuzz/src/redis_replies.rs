//! The replies of Redis, from a server that is out of sync, damaged or not Redis at all.
//!
//! A server on loopback answers the commands of a connection well, and every other command with the bytes of the
//! input. The first byte of the input has flags, see below.

use std::{
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use latchkey::{
    domain::{
        ports::{Change, Commit, EventLog as _, Registers, Revision, StoreError, Versioned},
        sessions::UserSessions,
        types::{Generation, Timestamp, UserId},
    },
    store::{
        binding,
        codec::{encode_changed, encode_sessions},
        codec_store::CodecStore,
        redis::{RedisRegisters, RedisSettings},
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    runtime::{self, Runtime},
    time::{sleep, timeout},
};

use crate::resp;

/// The commands of a new connection are answered with the input, too.
const FROM_THE_START: u8 = 1;
/// The server closes the connection after an answer.
const CLOSES: u8 = 2;
/// The call: load, load many, commit, tail.
const CALL_SHIFT: u8 = 2;

const CONNECT_TIMEOUT: Duration = Duration::from_millis(100);
const RESPONSE_TIMEOUT: Duration = Duration::from_millis(30);
/// A call that takes longer hangs. Far more than the timeouts of the commands of one call, for slow machines.
const LIMIT: Duration = Duration::from_secs(10);

type Store = CodecStore<RedisRegisters>;

/// The answers of the server.
#[derive(Default)]
struct Script {
    flags: u8,
    reply: Vec<u8>,
}

struct Fixture {
    runtime: Runtime,
    url: String,
    script: Arc<Mutex<Script>>,
    /// How many commands were answered with an input.
    answered: Arc<AtomicU64>,
    alice: UserId,
    bob: UserId,
}

static FIXTURE: LazyLock<Fixture> = LazyLock::new(|| {
    let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("the runtime starts");
    let script = Arc::new(Mutex::new(Script::default()));
    let answered = Arc::new(AtomicU64::new(0));
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("there is a free port");
    let url = format!("redis://{}", listener.local_addr().expect("the port is open"));
    runtime.spawn(accept(listener, Arc::clone(&script), Arc::clone(&answered)));
    let user = |name| UserId::parse(name).expect("the id is valid");
    Fixture { runtime, url, script, answered, alice: user("alice"), bob: user("bob") }
});

async fn accept(listener: TcpListener, script: Arc<Mutex<Script>>, answered: Arc<AtomicU64>) {
    while let Ok((connection, _)) = listener.accept().await {
        tokio::spawn(serve(connection, Arc::clone(&script), Arc::clone(&answered)));
    }
}

/// Answers commands until the client or the input closes the connection.
async fn serve(mut connection: TcpStream, script: Arc<Mutex<Script>>, answered: Arc<AtomicU64>) {
    let _ = connection.set_nodelay(true);
    let mut buffer = Vec::new();
    loop {
        while let Some(words) = resp::take_command(&mut buffer) {
            let (reply, closes) = {
                let script = script.lock().expect("no thread has panicked");
                let usual = usual_reply(&words).filter(|_| script.flags & FROM_THE_START == 0);
                if usual.is_none() {
                    answered.fetch_add(1, Ordering::Relaxed);
                }
                let closes = usual.is_none() && script.flags & CLOSES != 0;
                (usual.unwrap_or_else(|| script.reply.clone()), closes)
            };
            if connection.write_all(&reply).await.is_err() || closes {
                return;
            }
        }
        match connection.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

/// Answers the commands by which a connection is opened and verified.
fn usual_reply(words: &[Vec<u8>]) -> Option<Vec<u8>> {
    let command = String::from_utf8_lossy(words.first()?).to_ascii_uppercase();
    Some(match (command.as_str(), words.get(1)) {
        ("PING", Some(nonce)) => resp::encode_bulk(nonce),
        ("PING", None) => b"+PONG\r\n".to_vec(),
        ("ROLE", _) => b"*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n".to_vec(),
        ("INFO", _) => resp::encode_bulk(b"maxmemory_policy:noeviction\r\n"),
        ("GET", Some(key)) if key.ends_with(b":buckets") => resp::encode_bulk(b"64"),
        ("CLIENT" | "SELECT" | "AUTH" | "READONLY", _) => b"+OK\r\n".to_vec(),
        _ => return None,
    })
}

/// Makes a call whose commands the input answers. It ends in time, with a value of its register or an error.
pub fn run(data: &[u8]) {
    let Some((flags, reply)) = data.split_first() else { return };
    let fixture = &*FIXTURE;
    *fixture.script.lock().expect("no thread has panicked") = Script { flags: *flags, reply: reply.to_vec() };
    fixture.runtime.block_on(async {
        let settings = RedisSettings::new(fixture.url.clone(), CONNECT_TIMEOUT, RESPONSE_TIMEOUT);
        let store = Store::new(RedisRegisters::start(&settings, "lk").expect("the URL is valid"));
        timeout(LIMIT, fixture.call(flags >> CALL_SHIFT, &store, reply)).await.expect("the call hangs");
    });
}

impl Fixture {
    /// Repeats a call until the server has answered it: before a connection is open, every call fails.
    async fn until_answered<T>(&self, call: impl AsyncFn() -> T) -> T {
        let before = self.answered.load(Ordering::Relaxed);
        for _ in 0..20 {
            let result = call().await;
            if self.answered.load(Ordering::Relaxed) > before {
                return result;
            }
            sleep(Duration::from_micros(200)).await;
        }
        call().await
    }

    async fn call(&self, call: u8, store: &Store, reply: &[u8]) {
        match call % 4 {
            0 => {
                let load = async || Registers::<UserSessions>::load(store, &self.alice).await;
                check_loaded(&self.alice, &self.until_answered(load).await, resp::first_bulk(reply));
            }
            1 => {
                let keys = [&self.alice, &self.bob];
                let load = async || Registers::<UserSessions>::load_many(store, &keys).await;
                let loaded = self.until_answered(load).await;
                assert_eq!(loaded.len(), keys.len(), "a load without an answer");
                if let [Ok(alice), Ok(bob)] = &loaded[..]
                    && is_present(alice)
                    && is_present(bob)
                {
                    let bound = |key: &str| binding::bind(key, &[1])[1..].to_vec();
                    let contains = |bytes: &[u8]| reply.windows(bytes.len()).any(|window| window == bytes);
                    let is_bound = contains(&bound("alice")) && !contains(&bound("bob"));
                    assert!(!is_bound || reply.len() > 40, "two users have the same value");
                }
            }
            2 => {
                let state = UserSessions { generation: Generation(7), ..UserSessions::default() };
                let change = || Change {
                    state: state.clone(),
                    keep_until: Timestamp::from_secs(2_000_000_000),
                    events: Vec::new(),
                };
                let commit = async || store.commit(&self.alice, Revision::ABSENT, change()).await;
                match self.until_answered(commit).await {
                    Ok(Commit::Committed(revision)) => {
                        assert_eq!(revision, Revision(7));
                        assert_eq!(
                            resp::first_bulk(reply),
                            Some(&7_u64.to_be_bytes()[..]),
                            "not acknowledged"
                        );
                    }
                    Ok(Commit::Conflict(current)) => {
                        let value = reply.strip_prefix(b"*1\r\n").and_then(resp::first_bulk);
                        check_loaded(&self.alice, &Ok(current), value);
                    }
                    Err(error) => check_error(&error),
                }
            }
            _ => match self.until_answered(async || store.tail(None, 10).await).await {
                Ok(tail) => assert!(!tail.next.0.is_empty()),
                Err(error) => check_error(&error),
            },
        }
    }
}

fn is_present(loaded: &Versioned<UserSessions>) -> bool {
    loaded.revision != Revision::ABSENT
}

/// Checks what was loaded from this value, if the reply begins with one.
fn check_loaded(key: &UserId, loaded: &Result<Versioned<UserSessions>, StoreError>, value: Option<&[u8]>) {
    match loaded {
        Ok(loaded) if is_present(loaded) => {
            if let Some(value) = value {
                let (revision, bytes) =
                    value.split_at_checked(8).expect("a value without a revision was loaded");
                assert_eq!(loaded.revision.0.to_be_bytes(), revision, "another revision was loaded");
                assert!(binding::belongs(key.as_str(), bytes), "the value of another register was loaded");
            }
        }
        Ok(loaded) => {
            assert_eq!(*loaded.state, UserSessions::default());
            let is_value = value.is_some_and(|value| value.len() >= 8 && value[..8] != [0; 8]);
            assert!(!is_value, "a value was taken for none");
        }
        Err(error) => check_error(error),
    }
}

fn check_error(error: &StoreError) {
    assert!(!error.to_string().is_empty());
}

/// Returns the inputs that the kept corpus begins with.
pub fn seeds() -> Vec<Vec<u8>> {
    let state = UserSessions { generation: Generation(9), ..UserSessions::default() };
    let value = |name: &str, revision: u64| {
        let bytes = binding::bind(name, &encode_sessions(&state));
        resp::encode_bulk(&[&revision.to_be_bytes(), &*bytes].concat())
    };
    let unbound = resp::encode_bulk(&[&9_u64.to_be_bytes(), &*encode_sessions(&state)].concat());
    let event = resp::encode_bulk(&encode_changed(&UserId::parse("alice").expect("the id is valid")));
    let tail = |last: &str, events: &[u8]| {
        let count = usize::from(!events.is_empty());
        let head = format!("*4\r\n${}\r\n{last}\r\n:0\r\n:0\r\n*{count}\r\n", last.len());
        [head.as_bytes(), events].concat()
    };
    let [load, load_many, commit, follow] = [0, 1, 2, 3].map(|call: u8| call << CALL_SHIFT);
    let with = |flags: u8, reply: &[u8]| [&[flags], reply].concat();
    let mut seeds = vec![
        with(load | CLOSES, &value("alice", 9)),
        with(load | CLOSES, &value("bob", 9)),
        with(load | CLOSES, &value("alice", 0)),
        with(load | CLOSES, &unbound),
        with(load, b"$-1\r\n"),
        with(load | CLOSES, b"_\r\n"),
        with(load | CLOSES, b"$7\r\n1234567\r\n"),
        with(load_many | CLOSES, &[b"*2\r\n", &*value("alice", 9), &*value("bob", 9)].concat()),
        with(load_many | CLOSES, &[b"*2\r\n", &*value("bob", 9), &*value("alice", 9)].concat()),
        with(load_many, b"*2\r\n$-1\r\n$-1\r\n"),
        with(load_many | CLOSES, b"*1\r\n$-1\r\n"),
        with(commit | CLOSES, &resp::encode_bulk(&7_u64.to_be_bytes())),
        with(commit | CLOSES, &resp::encode_bulk(&8_u64.to_be_bytes())),
        with(commit | CLOSES, &[b"*1\r\n", &*value("alice", 9)].concat()),
        with(commit | CLOSES, &[b"*1\r\n", &*value("bob", 9)].concat()),
        with(commit | CLOSES, b"*1\r\n$-1\r\n"),
        with(commit | CLOSES, b"*0\r\n"),
        with(commit | CLOSES, b"-NOSCRIPT No matching script\r\n"),
        with(follow, &tail("1-1", &[])),
        with(follow, &tail("1-1", &event)),
        with(follow, &tail("no id", &event)),
    ];
    for error in [
        "MOVED 866 127.0.0.1:7001",
        "ASK 866 127.0.0.1:7001",
        "TRYAGAIN a",
        "CLUSTERDOWN a",
        "READONLY a",
        "LOADING a",
        "MASTERDOWN a",
        "NOAUTH a",
        "WRONGTYPE a",
        "OOM a",
        "BUSY a",
        "ERR a",
    ] {
        seeds.push(with(load | CLOSES, format!("-{error}\r\n").as_bytes()));
    }
    for reply in [
        &b"$-2\r\n"[..],
        b"$999999999999999999999\r\n",
        b"*-1\r\n",
        b"*2147483647\r\n",
        b"+OK\r\n",
        b":7\r\n",
        b"%1\r\n+a\r\n+b\r\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x15\x03\x01\x00\x02\x02\x50",
        b"",
    ] {
        seeds.push(with(load | CLOSES, reply));
        seeds.push(with(load | CLOSES | FROM_THE_START, reply));
    }
    seeds.push(with(load | FROM_THE_START, b"*3\r\n$5\r\nslave\r\n$1\r\na\r\n:1\r\n"));
    seeds
}
