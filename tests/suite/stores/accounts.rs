//! Conformance of the accounts store.

use super::test_accounts::{Database, TestAccounts};
use rstest::rstest;
use std::{sync::Arc, time::Duration};

use latchkey::{
    domain::{
        password::PasswordHash,
        ports::{
            Account, AccountChange, Accounts, Commit, DebtCause, Disabled, Imported, Registers, Revision,
        },
        types::{Role, Timestamp, UserId},
        username::Username,
    },
    store::{
        codec_store::CodecStore,
        embedded::{self, EmbeddedRegisters},
        sql::SqlAccounts,
    },
};
use tokio::task::JoinSet;

use super::{
    states::{change, now, user},
    test_store::of_sessions,
};
use crate::support::clock::ManualClock;

/// A time after all that the tests record.
fn later() -> Timestamp {
    now().after(Duration::from_secs(1))
}

pub fn name(text: &str) -> Username {
    Username::parse(text).unwrap()
}

pub fn hash(text: &str) -> PasswordHash {
    PasswordHash::new(text.into())
}

pub fn roles(texts: &[&str]) -> Vec<Role> {
    Role::parse_all(texts).unwrap()
}

pub fn account(username: &str) -> Account {
    Account {
        user_id: UserId::random(),
        username: name(username),
        password: hash("$old"),
        roles: roles(&["staff", "admin"]),
        disabled: Disabled::No,
        created_at: now(),
    }
}

async fn created(accounts: &dyn Accounts, username: &str) -> Account {
    let account = account(username);
    assert!(accounts.create(&account).await.unwrap());
    account
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_is_found_as_it_was_created(
    #[values(Database::Embedded, Database::Postgres, Database::MariaDb)] database: Database,
) {
    let store = TestAccounts::on(database).await;

    let accounts = &*store.accounts;
    accounts.ping().await.unwrap();
    let until = Disabled::Until(Timestamp::from_micros(1_900_000_000_000_001));
    for (username, disabled) in [("alice", Disabled::No), ("bob", Disabled::Yes), ("carol", until)] {
        let account = Account { disabled, ..account(username) };
        assert!(accounts.create(&account).await.unwrap());
        assert_eq!(accounts.get(&account.user_id).await.unwrap().as_ref(), Some(&account));
        assert_eq!(accounts.find(&account.username).await.unwrap(), Some(account));
    }
    let bare = Account { roles: Vec::new(), ..account("dave") };
    assert!(accounts.create(&bare).await.unwrap());
    assert_eq!(accounts.get(&bare.user_id).await.unwrap(), Some(bare));
    assert_eq!(accounts.find(&name("nobody")).await.unwrap(), None);
    assert_eq!(accounts.get(&user("nobody")).await.unwrap(), None);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_username_is_found_in_any_case_and_composition_and_taken_in_all(
    #[values(Database::Embedded, Database::Postgres, Database::MariaDb)] database: Database,
) {
    let store = TestAccounts::on(database).await;

    let accounts = &*store.accounts;
    let account = created(accounts, "Jürgen").await;
    for spelling in ["Jürgen", "jürgen", "JÜRGEN", "Ju\u{308}rgen", "JU\u{308}RGEN"] {
        let found = accounts.find(&name(spelling)).await.unwrap().unwrap();
        assert_eq!((&found.user_id, found.username.as_str()), (&account.user_id, "Jürgen"));
        assert!(!accounts.create(&self::account(spelling)).await.unwrap(), "{spelling} is taken");
    }
    assert_eq!(accounts.find(&name("Jurgen")).await.unwrap(), None);
    assert_eq!(accounts.list(None, 10).await.unwrap(), [account], "the failed change left a trace");
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_username_of_254_code_points_is_kept_whatever_they_are(
    #[values(Database::Embedded, Database::Postgres, Database::MariaDb)] database: Database,
) {
    let store = TestAccounts::on(database).await;

    let accounts = &*store.accounts;
    // The last three have a comparison key of three code points each.
    for character in ["x", "ü", "日", "😀", "ﬃ", "ΐ", "ᾷ"] {
        let account = created(accounts, &character.repeat(254)).await;
        assert_eq!(accounts.find(&account.username).await.unwrap(), Some(account), "{character}");
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_concurrent_creations_of_one_username_exactly_one_succeeds(
    #[values(Database::Embedded, Database::Postgres, Database::MariaDb)] database: Database,
) {
    let store = TestAccounts::on(database).await;

    let mut tasks = JoinSet::new();
    for number in 0..20 {
        let accounts = Arc::clone(&store.accounts);
        let spelling = if number % 2 == 0 { "alice" } else { "ALICE" };
        tasks.spawn(async move { accounts.create(&account(spelling)).await.unwrap() });
    }
    assert_eq!(tasks.join_all().await.into_iter().filter(|created| *created).count(), 1);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_list_every_account_once_in_the_order_of_usernames(
    #[values(Database::Embedded, Database::Postgres, Database::MariaDb)] database: Database,
) {
    let store = TestAccounts::on(database).await;

    let accounts = &*store.accounts;
    for username in ["bob", "Alice", "élan", "zoë", "carol", "_x", "007", "Dave"] {
        created(accounts, username).await;
    }
    for limit in [1, 3, 8, 100] {
        let mut seen = Vec::<Account>::new();
        loop {
            let page = accounts.list(seen.last().map(|last| &last.username), limit).await.unwrap();
            assert!(page.len() <= usize::try_from(limit).unwrap());
            if page.is_empty() {
                break;
            }
            seen.extend(page);
        }
        let names: Vec<_> = seen.iter().map(|account| account.username.as_str()).collect();
        assert_eq!(names, ["007", "_x", "Alice", "bob", "carol", "Dave", "zoë", "élan"]);
    }
    let after_nobody = accounts.list(Some(&name("cz")), 2).await.unwrap();
    assert_eq!(after_nobody[0].username, name("Dave"), "the cursor need not exist any more");
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_changes_what_it_names_and_nothing_else(
    #[values(Database::Embedded, Database::Postgres, Database::MariaDb)] database: Database,
) {
    let store = TestAccounts::on(database).await;

    let accounts = &*store.accounts;
    let mut expected = created(accounts, "alice").await;
    let bystander = created(accounts, "bob").await;
    let until = Disabled::Until(Timestamp::from_micros(5));
    let changes = [
        (Some(roles(&["ops"])), None),
        (None, Some(Disabled::Yes)),
        (None, Some(until)),
        (Some(Vec::new()), None),
        (Some(roles(&["a", "b"])), Some(Disabled::No)),
        (None, None),
    ];
    for (roles, disabled) in changes {
        expected.roles = roles.clone().unwrap_or(expected.roles);
        expected.disabled = disabled.unwrap_or(expected.disabled);
        let change = AccountChange::Update { roles, disabled };
        let outcome = accounts.change(&expected.user_id, change, None, now()).await.unwrap();
        assert_eq!(outcome, Some((expected.clone(), None)));
        assert_eq!(accounts.get(&expected.user_id).await.unwrap().as_ref(), Some(&expected));
    }
    let change = AccountChange::Password(hash("$new"));
    let (left, _) = accounts.change(&expected.user_id, change, None, now()).await.unwrap().unwrap();
    assert_eq!(left, Account { password: hash("$new"), ..expected });
    assert_eq!(accounts.get(&bystander.user_id).await.unwrap(), Some(bystander));
    assert_eq!(accounts.debts(later(), 10).await.unwrap(), []);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_account_is_gone_and_its_name_is_free(
    #[values(Database::Embedded, Database::Postgres, Database::MariaDb)] database: Database,
) {
    let store = TestAccounts::on(database).await;

    let accounts = &*store.accounts;
    let account = created(accounts, "alice").await;
    let deleted = accounts.change(&account.user_id, AccountChange::Delete, None, now()).await.unwrap();
    assert_eq!(deleted, Some((account.clone(), None)), "as it was left");
    assert_eq!(accounts.get(&account.user_id).await.unwrap(), None);
    assert_eq!(accounts.change(&account.user_id, AccountChange::Delete, None, now()).await.unwrap(), None);
    created(accounts, "alice").await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn debts_are_recorded_with_their_change_and_stay_until_settled(
    #[values(Database::Embedded, Database::Postgres, Database::MariaDb)] database: Database,
) {
    let store = TestAccounts::on(database).await;

    let accounts = &*store.accounts;
    let account = created(accounts, "alice").await;
    let id = &account.user_id;
    let profile = AccountChange::Update { roles: Some(Vec::new()), disabled: None };
    let mut debts = Vec::new();
    for (change, cause) in [
        (profile, DebtCause::Profile),
        (AccountChange::Password(hash("$new")), DebtCause::CredentialsChanged),
        (AccountChange::Delete, DebtCause::AccountDisabled),
    ] {
        let (_, debt) = accounts.change(id, change, Some(cause), now()).await.unwrap().unwrap();
        let debt = debt.unwrap();
        assert_eq!((&debt.user_id, debt.cause), (id, cause));
        debts.push(debt);
    }
    assert_eq!(accounts.debts(later(), 10).await.unwrap(), debts, "the oldest first");
    assert_eq!(accounts.debts(later(), 2).await.unwrap(), debts[..2]);
    // A change without effect records no debt.
    let nothing =
        accounts.change(id, AccountChange::Delete, Some(DebtCause::AccountDisabled), now()).await.unwrap();
    assert_eq!(nothing, None);

    accounts.settled(&debts[1]).await.unwrap();
    accounts.settled(&debts[1]).await.unwrap();
    let store = store.reopen().await;
    assert_eq!(store.accounts.debts(later(), 10).await.unwrap(), [debts[0].clone(), debts[2].clone()]);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_whose_debt_cannot_be_recorded_does_not_happen(
    #[values(Database::Embedded, Database::Postgres, Database::MariaDb)] database: Database,
) {
    let store = TestAccounts::on(database).await;

    let accounts = &*store.accounts;
    let account = created(accounts, "alice").await;
    store.execute("DROP TABLE @session_debts").await;
    let cause = Some(DebtCause::AccountDisabled);
    accounts.change(&account.user_id, AccountChange::Delete, cause, now()).await.unwrap_err();
    assert_eq!(accounts.get(&account.user_id).await.unwrap(), Some(account));
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rehash_replaces_only_the_hash_it_was_made_from(
    #[values(Database::Embedded, Database::Postgres, Database::MariaDb)] database: Database,
) {
    let store = TestAccounts::on(database).await;

    let accounts = &*store.accounts;
    let account = created(accounts, "alice").await;
    let id = &account.user_id;
    accounts.rehash(&account.username, id, &hash("$old"), &hash("$better")).await.unwrap();
    assert_eq!(accounts.get(id).await.unwrap().unwrap().password, hash("$better"));
    // A late rehash must not overwrite a password that has changed meanwhile.
    accounts.rehash(&account.username, id, &hash("$old"), &hash("$stale")).await.unwrap();
    assert_eq!(accounts.get(id).await.unwrap().unwrap().password, hash("$better"));
    accounts.rehash(&name("nobody"), &user("nobody"), &hash("$old"), &hash("$better")).await.unwrap();
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_says_of_each_account_what_became_of_it(
    #[values(Database::Embedded, Database::Postgres, Database::MariaDb)] database: Database,
) {
    use Imported::{Added, IdTaken, Present, UsernameTaken};

    let store = TestAccounts::on(database).await;
    let accounts = &*store.accounts;
    let alice = created(accounts, "alice").await;
    let bob = account("Bob");
    let batch = [
        Account { password: hash("$newer"), ..alice.clone() },
        bob.clone(),
        account("ALICE"),
        Account { username: name("eve"), ..alice.clone() },
        Account { disabled: Disabled::Until(later()), ..account("carol") },
        // Duplicates in one batch, by id and by name.
        bob.clone(),
        account("BOB"),
        Account { username: name("robert"), ..bob.clone() },
        Account { username: name("BOB"), ..alice.clone() },
    ];
    let outcome = accounts.import(&batch).await.unwrap();
    let first =
        [Present, Added, UsernameTaken, IdTaken, Added, Present, UsernameTaken, IdTaken, UsernameTaken];
    assert_eq!(outcome, first);
    let left = [alice, bob, batch[4].clone()];
    assert_eq!(accounts.list(None, 10).await.unwrap(), left, "what was there stays as it was");

    let again = accounts.import(&batch).await.unwrap();
    let second =
        [Present, Present, UsernameTaken, IdTaken, Present, Present, UsernameTaken, IdTaken, UsernameTaken];
    assert_eq!(again, second, "safe to repeat");
    assert_eq!(accounts.list(None, 10).await.unwrap(), left);
    assert_eq!(accounts.import(&[]).await.unwrap(), []);
    assert_eq!(accounts.debts(later(), 10).await.unwrap(), []);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_accounts_are_imported_at_once(
    #[values(Database::Embedded, Database::Postgres, Database::MariaDb)] database: Database,
) {
    let store = TestAccounts::on(database).await;

    let batch: Vec<_> = (0..3001).map(|number| account(&format!("user{number:04}"))).collect();
    assert_eq!(store.accounts.import(&batch).await.unwrap(), vec![Imported::Added; 3001]);
    assert_eq!(store.accounts.import(&batch).await.unwrap(), vec![Imported::Present; 3001]);
    assert_eq!(store.accounts.list(None, 5000).await.unwrap(), batch);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_imports_of_the_same_accounts_add_each_once(
    #[values(Database::Embedded, Database::Postgres, Database::MariaDb)] database: Database,
) {
    let store = TestAccounts::on(database).await;

    let batch: Arc<Vec<_>> = Arc::new((0..50).map(|number| account(&format!("user{number}"))).collect());
    let mut tasks = JoinSet::new();
    for number in 0..6 {
        let (accounts, mut batch) = (Arc::clone(&store.accounts), batch.to_vec());
        // Different orders make the imports collide.
        batch.rotate_left(number * 7);
        tasks.spawn(async move { accounts.import(&batch).await.unwrap() });
    }
    let outcomes = tasks.join_all().await.concat();
    let count = |wanted| outcomes.iter().filter(|outcome| **outcome == wanted).count();
    assert_eq!((count(Imported::Added), count(Imported::Present)), (50, 250));
    assert_eq!(store.accounts.list(None, 100).await.unwrap().len(), 50);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_changes_of_one_account_are_made_one_after_the_other(
    #[values(Database::Embedded, Database::Postgres, Database::MariaDb)] database: Database,
) {
    let store = TestAccounts::on(database).await;

    let account = created(&*store.accounts, "alice").await;
    let mut tasks = JoinSet::new();
    for number in 0..12 {
        let (accounts, id) = (Arc::clone(&store.accounts), account.user_id.clone());
        tasks.spawn(async move {
            let role = Some(roles(&[&format!("role{number}")]));
            let disabled = (number % 2 == 0).then_some(Disabled::Yes);
            let change = AccountChange::Update { roles: role, disabled };
            accounts.change(&id, change, Some(DebtCause::Profile), now()).await.unwrap().unwrap()
        });
    }
    let left = tasks.join_all().await;
    let stands = store.accounts.get(&account.user_id).await.unwrap().unwrap();
    assert!(left.iter().any(|(account, _)| *account == stands));
    assert_eq!(stands.disabled, Disabled::Yes, "a change overwrote another");
    assert_eq!(store.accounts.debts(later(), 100).await.unwrap().len(), 12);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accounts_are_changed_while_hundreds_of_commits_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let database = embedded::Database::open(&dir.path().join("latchkey.db")).await.unwrap();
    let accounts = Arc::new(SqlAccounts::embedded(&database));
    let registers = EmbeddedRegisters::start(database, Arc::new(ManualClock::new()));
    let registers = Arc::new(CodecStore::new(registers));
    let account = created(&*accounts, "alice").await;

    let mut commits = JoinSet::new();
    for number in 0..16 {
        let registers = Arc::clone(&registers);
        commits.spawn(async move {
            let (user, mut revision) = (user(&format!("user{number}")), Revision::ABSENT);
            for generation in 1..=40 {
                let outcome = registers.commit(&user, revision, change(generation)).await.unwrap();
                assert!(matches!(outcome, Commit::Committed(_)));
                revision = of_sessions(&*registers).load(&user).await.unwrap().revision;
            }
        });
    }
    let mut changes = JoinSet::new();
    for number in 0..4 {
        let (accounts, account) = (Arc::clone(&accounts), account.clone());
        changes.spawn(async move {
            for round in 0..20 {
                let password = AccountChange::Password(hash(&format!("${number}.{round}")));
                let cause = Some(DebtCause::CredentialsChanged);
                let (_, debt) =
                    accounts.change(&account.user_id, password, cause, now()).await.unwrap().unwrap();
                accounts.settled(&debt.unwrap()).await.unwrap();
                assert!(accounts.create(&self::account(&format!("new{number}.{round}"))).await.unwrap());
            }
        });
    }
    let all = async {
        commits.join_all().await;
        changes.join_all().await;
    };
    tokio::time::timeout(Duration::from_mins(1), all).await.unwrap();
    assert_eq!(accounts.list(None, 1000).await.unwrap().len(), 81);
    assert_eq!(accounts.debts(later(), 10).await.unwrap(), []);
}
