//! The embedded store: batches of commits, the database file, and its damage.

use std::{
    fs,
    io::{Seek as _, SeekFrom, Write as _},
    path::Path,
    sync::Arc,
    time::Duration,
};

use latchkey::{
    domain::ports::{Change, Commit, EventLog as _, Registers as _, Revision, StoreError},
    domain::sessions::{Profile, UserSessions},
    store::{
        codec_store::CodecStore,
        embedded::{Database, EmbeddedRegisters},
    },
};
use tokio::task::JoinSet;

use super::{
    states::{change, change_with, now, numbers, state, user},
    test_store::{corrupt, of_sessions, unavailable},
};
use crate::support::clock::ManualClock;

type Store = CodecStore<EmbeddedRegisters>;

async fn open(dir: &Path) -> Result<(Arc<Store>, Database), StoreError> {
    let database = Database::open(&dir.join("latchkey.db")).await?;
    let registers = EmbeddedRegisters::start(database.clone(), Arc::new(ManualClock::new()));
    Ok((Arc::new(CodecStore::new(registers)), database))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_create_the_same_database_at_once_wait_for_each_other() {
    for _ in 0..10 {
        let dir = tempfile::tempdir().unwrap();
        let mut opening = JoinSet::new();
        for _ in 0..8 {
            let path = dir.path().join("latchkey.db");
            opening.spawn(async move { Database::open(&path).await.map(drop) });
        }
        for opened in opening.join_all().await {
            opened.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_commits_at_once_over_a_hundred_users_all_take_effect() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path()).await.unwrap();
    let end = store.tail(None, 1).await.unwrap().next;
    let mut tasks = JoinSet::new();
    for number in 0..1000_u64 {
        let store = Arc::clone(&store);
        tasks.spawn(async move {
            let user = user(&format!("user{}", number % 100));
            let mut read = of_sessions(&*store).load(&user).await.unwrap();
            loop {
                let mut state = (*read.state).clone();
                state.generation.0 += 1;
                state.profile.username = number.to_string().into();
                let change = Change { state, ..change_with(0, [number]) };
                match store.commit(&user, read.revision, change).await.unwrap() {
                    Commit::Committed(_) => return,
                    Commit::Conflict(newer) => read = newer,
                }
            }
        });
    }
    tasks.join_all().await;
    for number in 0..100 {
        let found = of_sessions(&*store).load(&user(&format!("user{number}"))).await.unwrap();
        assert_eq!(found.state.generation.0, 10, "user{number}");
    }
    let mut seen: Vec<_> = super::states::numbers(&store.tail(Some(&end), 2000).await.unwrap().events)
        .into_iter()
        .map(|(_, number)| number)
        .collect();
    seen.sort_unstable();
    assert_eq!(seen, (0..1000).collect::<Vec<_>>());
}

#[tokio::test]
async fn commits_beyond_the_queue_fail_and_the_others_succeed() {
    let dir = tempfile::tempdir().unwrap();
    let (store, database) = open(dir.path()).await.unwrap();
    // This transaction holds the write lock.
    let busy = database.writer.begin_with("BEGIN IMMEDIATE").await.unwrap();
    let mut tasks = JoinSet::new();
    for number in 0..5000 {
        let store = Arc::clone(&store);
        let user = user(&format!("user{number}"));
        tasks.spawn(async move { store.commit(&user, Revision::ABSENT, change(1)).await });
    }
    let (mut committed, mut refused) = (0, 0);
    let mut busy = Some(busy);
    while let Some(outcome) = tasks.join_next().await {
        match outcome.unwrap() {
            Ok(Commit::Committed(_)) => committed += 1,
            Ok(Commit::Conflict(_)) => panic!("a conflict"),
            error => {
                assert!(unavailable(error).contains("too many commits are waiting"));
                refused += 1;
                drop(busy.take());
            }
        }
    }
    assert!(refused > 0 && committed >= 4096, "{committed} committed, {refused} refused");
}

#[tokio::test]
async fn commits_are_there_when_the_file_is_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let (store, database) = open(dir.path()).await.unwrap();
    let beginning = store.tail(None, 1).await.unwrap().next;
    for number in 1..=50 {
        let user = user(&format!("user{number}"));
        let outcome = store.commit(&user, Revision::ABSENT, change_with(number, [number])).await.unwrap();
        assert!(matches!(outcome, Commit::Committed(_)));
    }
    let end = store.tail(None, 1).await.unwrap().next;
    drop(store);
    database.close().await;

    let (store, _) = open(dir.path()).await.unwrap();
    for number in 1..=50 {
        assert_eq!(
            *of_sessions(&*store).load(&user(&format!("user{number}"))).await.unwrap().state,
            state(number)
        );
    }
    let seen = store.tail(Some(&beginning), 100).await.unwrap();
    assert_eq!((seen.events.len(), seen.gap, seen.next), (50, false, end.clone()));
    let rest = store.tail(Some(&end), 100).await.unwrap();
    assert_eq!((rest.events.len(), rest.gap), (0, false));
}

#[tokio::test]
async fn a_restored_backup_is_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let (store, database) = open(dir.path()).await.unwrap();
    store.commit(&user("alice"), Revision::ABSENT, change_with(1, [1])).await.unwrap();
    let backup = dir.path().join("backup.db");
    sqlx::query("VACUUM INTO ?").bind(backup.to_str().unwrap()).execute(&database.writer).await.unwrap();
    store.commit(&user("bob"), Revision::ABSENT, change_with(1, [2])).await.unwrap();
    let cursor = store.tail(None, 1).await.unwrap().next;
    drop(store);
    database.close().await;

    fs::rename(backup, dir.path().join("latchkey.db")).unwrap();
    tokio::time::sleep(Duration::from_millis(5)).await;
    let (store, _) = open(dir.path()).await.unwrap();
    assert!(store.tail(Some(&cursor), 10).await.unwrap().gap);
    // The gap is found even after the numbers have caught up.
    store.commit(&user("carol"), Revision::ABSENT, change_with(1, [3, 4])).await.unwrap();
    assert!(store.tail(Some(&cursor), 10).await.unwrap().gap);
}

#[tokio::test]
async fn a_sweep_deletes_exactly_the_expired_registers() {
    let dir = tempfile::tempdir().unwrap();
    let (store, database) = open(dir.path()).await.unwrap();
    let mut commits = JoinSet::new();
    for number in 0..2500 {
        let store = Arc::clone(&store);
        // A fifth of the registers stays.
        let minutes = if number % 5 == 0 { 60 } else { 1 };
        commits.spawn(async move {
            let keep_until = now().after(Duration::from_mins(minutes));
            let change = Change { keep_until, ..change_with(1, [number]) };
            store.commit(&user(&format!("user{number}")), Revision::ABSENT, change).await.unwrap()
        });
    }
    commits.join_all().await;
    let count = async |table: &'static str| {
        let sql = match table {
            "registers" => "SELECT count(*) FROM registers",
            _ => "SELECT count(*) FROM events WHERE value IS NOT NULL",
        };
        sqlx::query_scalar::<_, i64>(sql).fetch_one(&database.writer).await.unwrap()
    };
    let soon = now().after(Duration::from_mins(2));
    assert!(store.backend.sweep(soon).await.unwrap(), "one sweep deleted everything");
    assert_eq!(count("registers").await, 1500);
    while store.backend.sweep(soon).await.unwrap() {}
    assert_eq!((count("registers").await, count("events").await), (500, 2500));

    let tomorrow = now().after(Duration::from_hours(25));
    while store.backend.sweep(tomorrow).await.unwrap() {}
    assert_eq!((count("registers").await, count("events").await), (0, 1), "the newest event stays");
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_in_words_that_help() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("latchkey.db"), "this is a letter, not a database\n".repeat(500)).unwrap();
    let cause = corrupt(open(dir.path()).await);
    assert!(
        cause.contains("damaged or not an SQLite database") && cause.contains("restore it from a backup"),
        "{cause}"
    );
}

#[tokio::test]
async fn a_damaged_file_is_refused_in_words_that_help() {
    let dir = tempfile::tempdir().unwrap();
    let (store, database) = open(dir.path()).await.unwrap();
    for number in 0..50 {
        store.commit(&user(&format!("user{number}")), Revision::ABSENT, change(1)).await.unwrap();
    }
    drop(store);
    database.close().await;
    // Everything after the header is damaged.
    let path = dir.path().join("latchkey.db");
    let length = usize::try_from(fs::metadata(&path).unwrap().len()).unwrap();
    let mut file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.seek(SeekFrom::Start(100)).unwrap();
    file.write_all(&vec![0xa5; length - 100]).unwrap();
    let cause = corrupt(open(dir.path()).await);
    assert!(cause.contains("damaged or not an SQLite database"), "{cause}");
}

#[tokio::test]
async fn damage_that_shows_later_is_corrupt_and_never_an_empty_state() {
    let dir = tempfile::tempdir().unwrap();
    let (store, database) = open(dir.path()).await.unwrap();
    let user = user("alice");
    store.commit(&user, Revision::ABSENT, change(1)).await.unwrap();
    for damage in ["x'ff'", "x''", "x'02'", "x'010aff'"] {
        let update = format!("UPDATE registers SET value = {damage}");
        sqlx::query(sqlx::AssertSqlSafe(update)).execute(&database.writer).await.unwrap();
        corrupt(of_sessions(&*store).load(&user).await);
        corrupt(store.commit(&user, Revision::ABSENT, change(2)).await);
    }
}

#[tokio::test]
async fn damage_affects_only_the_registers_it_hits() {
    let dir = tempfile::tempdir().unwrap();
    let (store, database) = open(dir.path()).await.unwrap();
    let users: Vec<_> = (100..600).map(|number| user(&format!("user{number}"))).collect();
    for user in &users {
        store.commit(user, Revision::ABSENT, change(1)).await.unwrap();
    }
    let unreadable = "UPDATE registers SET revision = -1 WHERE key = 'user100'";
    sqlx::query(unreadable).execute(&database.writer).await.unwrap();
    let keys: Vec<_> = users.iter().collect();
    let reads = of_sessions(&*store).load_many(&keys).await;
    assert!(corrupt(reads[0].clone()).contains("negative revision"));
    assert!(reads[1..].iter().all(|read| read.as_ref().is_ok_and(|read| read.revision == Revision(1))));

    drop(store);
    database.close().await;
    let path = dir.path().join("latchkey.db");
    let mut file = fs::read(&path).unwrap();
    let hit = file.chunks_mut(4096).filter(|page| page.windows(7).any(|window| window == b"user300"));
    hit.for_each(|page| page.fill(0xa5));
    fs::write(&path, file).unwrap();
    let (store, _) = open(dir.path()).await.unwrap();
    let reads = of_sessions(&*store).load_many(&keys).await;
    corrupt(reads[200].clone());
    assert!(reads.iter().any(Result::is_ok), "others are elsewhere");
    for (user, read) in users.iter().zip(&reads) {
        assert_eq!(of_sessions(&*store).load(user).await.is_ok(), read.is_ok(), "{user}");
    }
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_refused_in_words_that_help() {
    let dir = tempfile::tempdir().unwrap();
    let (store, database) = open(dir.path()).await.unwrap();
    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (9999, 'from the future', TRUE, x'00', 0)",
    )
    .execute(&database.writer)
    .await
    .unwrap();
    drop(store);
    database.close().await;
    let cause = corrupt(open(dir.path()).await);
    assert!(cause.contains("a newer version of Latchkey (its schema has version 9999)"), "{cause}");
}

#[tokio::test]
async fn a_directory_that_cannot_be_written_is_unavailable() {
    let dir = tempfile::tempdir().unwrap();
    unavailable(open(&dir.path().join("missing")).await);
    fs::create_dir(dir.path().join("latchkey.db")).unwrap();
    unavailable(open(dir.path()).await);
}

#[tokio::test]
async fn a_full_disk_is_unavailable_and_no_commit_is_half_done() {
    let dir = tempfile::tempdir().unwrap();
    let (store, database) = open(dir.path()).await.unwrap();
    let user = user("alice");
    let end = store.tail(None, 1).await.unwrap().next;
    store.commit(&user, Revision::ABSENT, change(1)).await.unwrap();
    let read = of_sessions(&*store).load(&user).await.unwrap();

    let pragma = |pragma: &str| {
        let query = |connection: &rusqlite::Connection| connection.query_row(pragma, [], |row| row.get(0));
        database.with_register_writer(query).unwrap().unwrap()
    };
    let limit = |pages: i64| pragma(&format!("PRAGMA max_page_count = {pages}"));
    let pages = pragma("PRAGMA page_count");
    assert_eq!(limit(pages), pages);
    let large = UserSessions {
        profile: Profile { username: "x".repeat(100_000).into(), ..Profile::default() },
        ..state(2)
    };
    let large = Change { state: large, ..change_with(2, [2]) };
    assert!(unavailable(store.commit(&user, read.revision, large.clone()).await).contains("full"));
    assert_eq!(*of_sessions(&*store).load(&user).await.unwrap().state, state(1));
    assert_eq!(store.tail(Some(&end), 10).await.unwrap().events, []);

    limit(1 << 30);
    let outcome = store.commit(&user, read.revision, large).await.unwrap();
    assert!(matches!(outcome, Commit::Committed(_)), "once there is room again");
    assert_eq!(store.tail(Some(&end), 10).await.unwrap().events.len(), 1);
}

#[tokio::test]
async fn commits_that_share_a_transaction_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path()).await.unwrap();
    let end = store.tail(None, 1).await.unwrap().next;
    store.commit(&user("bob"), Revision::ABSENT, change(1)).await.unwrap();
    let bob = of_sessions(&*store).load(&user("bob")).await.unwrap().revision;
    // All commits are queued before the writer runs.
    let commits = [
        ("alice", Revision::ABSENT, vec![1, 2]),
        ("bob", Revision::ABSENT, vec![3, 4, 5]),
        ("bob", bob, vec![6]),
        ("bob", bob, vec![7, 8]),
        ("carol", Revision::ABSENT, vec![]),
        ("dave", Revision::ABSENT, vec![9]),
        ("erin", bob, vec![10]),
        ("alice", Revision::ABSENT, vec![11]),
        ("frank", Revision::ABSENT, vec![12]),
    ];
    let commits = commits.into_iter().zip(2..).map(async |((name, expected, events), generation)| {
        let change = change_with(generation, events);
        let commit = store.commit(&user(name), expected, change).await.unwrap();
        matches!(commit, Commit::Committed(_))
    });
    assert_eq!(
        futures_util::future::join_all(commits).await,
        [true, false, true, false, true, true, false, false, true]
    );
    let found = store.tail(Some(&end), 20).await.unwrap().events;
    assert_eq!(numbers(&found), [("alice", 1), ("alice", 2), ("bob", 6), ("dave", 9), ("frank", 12)]);
}

#[tokio::test]
async fn a_commit_that_fails_half_way_is_rolled_back_and_blocks_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let (store, database) = open(dir.path()).await.unwrap();
    let execute = async |sql: &'static str| sqlx::query(sql).execute(&database.writer).await.unwrap();
    execute("CREATE TRIGGER no BEFORE INSERT ON events BEGIN SELECT RAISE(ABORT, 'no event'); END").await;
    let (alice, bob) = (user("alice"), user("bob"));
    let failed = store.commit(&alice, Revision::ABSENT, change_with(1, [1])).await;
    assert!(unavailable(failed).contains("no event"));
    let outcome = store.commit(&bob, Revision::ABSENT, change(1)).await.unwrap();
    assert!(matches!(outcome, Commit::Committed(_)), "the next one has a transaction of its own");
    assert_eq!(of_sessions(&*store).load(&alice).await.unwrap().revision, Revision::ABSENT);
    execute("DROP TRIGGER no").await;
    let outcome = store.commit(&alice, Revision::ABSENT, change_with(1, [1])).await.unwrap();
    assert!(matches!(outcome, Commit::Committed(_)));
}

#[tokio::test]
async fn a_writer_that_is_stuck_in_a_transaction_gets_another_connection() {
    let dir = tempfile::tempdir().unwrap();
    let (store, database) = open(dir.path()).await.unwrap();
    for generation in 1..=3 {
        let user = user(&format!("user{generation}"));
        let outcome = store.commit(&user, Revision::ABSENT, change(generation)).await.unwrap();
        assert!(matches!(outcome, Commit::Committed(_)));
        let stuck = "BEGIN IMMEDIATE; DELETE FROM registers";
        database.with_register_writer(|connection| connection.execute_batch(stuck)).unwrap().unwrap();
        assert_eq!(*of_sessions(&*store).load(&user).await.unwrap().state, state(generation));
    }
}

/// Writes a database as a crash leaves it, with the latest commits in its write-ahead log.
async fn crashed(dir: &Path, commits: u64) {
    let inner = tempfile::tempdir().unwrap();
    Database::open(&inner.path().join("latchkey.db")).await.unwrap().close().await;
    let (store, _database) = open(inner.path()).await.unwrap();
    for number in 0..commits {
        store.commit(&user(&format!("user{number}")), Revision::ABSENT, change(1)).await.unwrap();
    }
    for file in ["latchkey.db", "latchkey.db-wal"] {
        fs::copy(inner.path().join(file), dir.join(file)).unwrap();
    }
}

#[tokio::test]
async fn a_log_that_is_damaged_is_refused_in_words_that_help() {
    let damage = async |place: fn(usize) -> usize| {
        let dir = tempfile::tempdir().unwrap();
        crashed(dir.path(), 20).await;
        let path = dir.path().join("latchkey.db-wal");
        let mut log = fs::read(&path).unwrap();
        let at = place(log.len());
        log[at..at + 4].iter_mut().for_each(|byte| *byte ^= 0xa5);
        fs::write(&path, log).unwrap();
        let cause = corrupt(open(dir.path()).await.map(drop));
        assert!(cause.contains("latchkey.db-wal") && cause.contains("move this file away"), "{cause}");
        fs::remove_file(&path).unwrap();
        open(dir.path()).await.unwrap();
    };
    damage(|_| 0).await;
    damage(|_| 20).await;
    // A frame is a header and a page.
    damage(|length| 32 + (length - 32) / (24 + 4096) / 2 * (24 + 4096)).await;
    damage(|length| 32 + (length - 32) / (24 + 4096) / 2 * (24 + 4096) + 100).await;
}

#[tokio::test]
async fn a_log_after_a_crash_is_read_wherever_it_ends() {
    let dir = tempfile::tempdir().unwrap();
    crashed(dir.path(), 5).await;
    let log = fs::read(dir.path().join("latchkey.db-wal")).unwrap();
    let database = fs::read(dir.path().join("latchkey.db")).unwrap();
    let frame = 24 + 4096;
    let frames = (log.len() - 32) / frame;
    for end in (0..=frames).map(|frames| 32 + frames * frame).chain([0, 20, 32 + 100, log.len() - 100]) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("latchkey.db"), &database).unwrap();
        fs::write(dir.path().join("latchkey.db-wal"), &log[..end]).unwrap();
        open(dir.path()).await.map(drop).unwrap();
        // The second half of the last frame is missing.
        let mut torn = log[..end].to_vec();
        let half = torn.len().saturating_sub(2000).max(torn.len().min(32));
        torn[half..].fill(0);
        fs::write(dir.path().join("latchkey.db"), &database).unwrap();
        fs::write(dir.path().join("latchkey.db-wal"), &torn).unwrap();
        open(dir.path()).await.map(drop).unwrap();
    }
}

#[tokio::test]
async fn nothing_is_acknowledged_once_the_file_is_deleted_or_replaced() {
    for what in ["deleted", "replaced", "separated"] {
        let dir = tempfile::tempdir().unwrap();
        let (store, _database) = open(dir.path()).await.unwrap();
        let alice = user("alice");
        store.commit(&alice, Revision::ABSENT, change(1)).await.unwrap();
        let read = of_sessions(&*store).load(&alice).await.unwrap();
        let path = dir.path().join("latchkey.db");
        match what {
            "deleted" => fs::remove_dir_all(dir.path()).unwrap(),
            "replaced" => {
                let copy = dir.path().join("copy");
                fs::copy(&path, &copy).unwrap();
                fs::rename(copy, &path).unwrap();
            }
            _ => fs::remove_file(dir.path().join("latchkey.db-wal")).unwrap(),
        }
        // The file is checked ten times a second.
        tokio::time::sleep(Duration::from_millis(150)).await;
        for _ in 0..2 {
            let cause = unavailable(store.commit(&alice, read.revision, change(2)).await);
            assert!(cause.contains(what) && cause.contains("restore a backup"), "{cause}");
        }
        if what != "separated" {
            unavailable(of_sessions(&*store).load(&alice).await);
            unavailable(of_sessions(&*store).load_many(&[&alice, &user("bob")]).await.remove(1));
            unavailable(store.tail(None, 1).await);
        }
    }
}
