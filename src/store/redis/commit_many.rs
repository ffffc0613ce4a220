//! Many commits at once: those without events share scripts, `commit_many.lua`, and the others are made side by side.

use std::collections::HashSet;

use futures_util::{
    future::join_all,
    stream::{self, StreamExt as _},
};
use redis::Value;

use super::{RedisRegisters, connection::Failure, is_committed, is_response_to_commit, layout::Register};
use crate::{
    domain::ports::StoreError,
    store::backend::{Backend as _, CONCURRENT_COMMITS, EncodedChange, EncodedCommit},
};

/// The most commits that one script makes. The server serves nobody else meanwhile.
const MAX_COMMITS: usize = 128;

impl RedisRegisters {
    /// Makes many commits, each for itself. Those without events, such as the uses of sessions, share scripts.
    pub(super) async fn make_commits(
        &self,
        commits: Vec<(&str, EncodedChange)>,
    ) -> Vec<Result<EncodedCommit, StoreError>> {
        let commits = commits.into_iter().map(|(key, change)| (self.layout.register(key), change));
        let commits: Vec<_> = commits.collect();
        let mut results: Vec<Option<Result<EncodedCommit, StoreError>>> = vec![None; commits.len()];
        // One script names each register once, because it reads all of them before it writes.
        let mut seen = HashSet::with_capacity(commits.len());
        let mut together: Vec<_> = (0..commits.len())
            .filter(|index| {
                let (register, change) = &commits[*index];
                change.events.is_empty() && change.expected > 0 && seen.insert(register.key)
            })
            .collect();
        if self.is_cluster() {
            together.sort_unstable_by_key(|index| commits[*index].0.bucket);
        }
        let in_one_script =
            |a: &usize, b: &usize| !self.is_cluster() || commits[*a].0.bucket == commits[*b].0.bucket;
        let groups = together.chunk_by(in_one_script).flat_map(|group| group.chunks(MAX_COMMITS));
        let made = groups.filter(|group| group.len() > 1).map(async |group| {
            let commits: Vec<_> = group.iter().map(|index| &commits[*index]).collect();
            (group, self.commit_together(&commits).await)
        });
        for (group, made) in join_all(made.collect::<Vec<_>>()).await {
            for (index, result) in group.iter().zip(made) {
                results[*index] = result;
            }
        }
        let others = (0..commits.len()).filter(|index| results[*index].is_none());
        let others = others.map(async |index| {
            let (register, change) = &commits[index];
            (index, self.commit(register.key, change.clone()).await)
        });
        let others: Vec<_> =
            stream::iter(others.collect::<Vec<_>>()).buffered(CONCURRENT_COMMITS).collect().await;
        for (index, result) in others {
            results[index] = Some(result);
        }
        results.into_iter().flatten().collect()
    }

    /// Makes commits to registers of one node by one script. Returns no result for those that have to be made one by
    /// one, which finds out why.
    async fn commit_together(
        &self,
        commits: &[&(Register<'_>, EncodedChange)],
    ) -> Vec<Option<Result<EncodedCommit, StoreError>>> {
        let all = |result: Option<Result<_, _>>| vec![result; commits.len()];
        let Ok(node) = self.topology.primary(commits[0].0.bucket) else { return all(None) };
        let call = self.commit.call_many(&self.layout, commits);
        let is_committed = |response: &Value| {
            let mut responses = responses(response).iter().zip(commits);
            responses.any(|(response, (_, change))| is_committed(response, change))
        };
        let is_expected = |response: &Value| {
            let responses = responses(response);
            let is_expected = |(response, (register, change)): (&Value, &&(_, _))| {
                is_response_to_commit(response, register, change)
            };
            responses.len() == commits.len() && responses.iter().zip(commits).all(is_expected)
        };
        match node.requests.commit(&call, false, self.durability, is_committed, is_expected).await {
            Ok(response) if responses(&response).len() == commits.len() => {
                let result = |(response, (register, change)): (&Value, &&(_, EncodedChange))| {
                    // Nil stands for a missing value and for one of the wrong type.
                    let is_certain = is_response_to_commit(response, register, change);
                    is_certain.then(|| self.committed(register, change.clone(), response.clone()))
                };
                responses(&response).iter().zip(commits).map(result).collect()
            }
            Err(Failure::Store(error)) => all(Some(Err(error))),
            Ok(_) | Err(_) => all(None),
        }
    }
}

/// Returns the responses to the commits of one script.
fn responses(response: &Value) -> &[Value] {
    if let Value::Array(responses) = response { responses } else { &[] }
}
