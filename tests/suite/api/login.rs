//! Login, and promise P1: the latest wins.

use latchkey::grpc::pb::RejectionReason;

use crate::on_both_stores;

on_both_stores! {
    async fn a_new_login_replaces_the_old_one_and_says_so_to_both(server: Server) {
        let client = &server.client;
        let user_id = client.user_with_roles("alice", &["staff"]).await;
        let first = client.login("alice", "Android").await;
        assert!(first.displaced.is_empty());
        assert_eq!(client.session(&first.token).await.user_id, user_id);

        let second = client.login("ALICE", "iPhone").await;
        let displaced = &second.displaced[0];
        let old = first.session.unwrap();
        assert_eq!((&displaced.session_id, displaced.device.as_str()), (&old.session_id, "Android"));
        assert_eq!((&displaced.slot, displaced.issued_at), (&old.slot, old.issued_at));

        let rejection = client.rejection(&first.token).await;
        assert_eq!(rejection.reason(), RejectionReason::Replaced);
        assert!(rejection.terminal);
        assert_eq!(rejection.by_device, "iPhone");
        assert_eq!(rejection.at, second.session.as_ref().unwrap().issued_at);
        assert_eq!(client.session(&second.token).await.device, "iPhone");
    }
}
