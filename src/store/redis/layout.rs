//! Where data lies: buckets of users, their keys, and their hash slots on a cluster.

use crate::store::binding::{self, fnv1a};

/// The number of buckets of a new store, and of every store that is older than the record of the number.
pub(super) const DEFAULT_BUCKETS: u16 = 64;

/// The number of hash slots of a cluster.
const HASH_SLOTS: u16 = 16384;

/// A register, with what follows from the hash of its name, which is computed once.
#[derive(Clone, Copy)]
pub(super) struct Register<'a> {
    pub(super) key: &'a str,
    hash: u64,
    pub(super) bucket: u16,
}

impl Register<'_> {
    /// Whether a value is certainly that of this register.
    pub(super) fn is_bound(&self, value: &[u8]) -> bool {
        binding::is_bound_by(self.hash, value)
    }
}

/// The names of keys.
pub(super) struct Layout {
    prefix: String,
    /// The prefix of the register keys, by bucket.
    register_prefixes: Vec<String>,
    /// The key of the event stream, by bucket.
    stream_keys: Vec<String>,
}

impl Layout {
    pub(super) fn new(prefix: &str, buckets: u16) -> Self {
        Self {
            prefix: prefix.to_owned(),
            register_prefixes: (0..buckets).map(|bucket| format!("{prefix}:{{{bucket}}}:s:")).collect(),
            stream_keys: (0..buckets).map(|bucket| stream_key(prefix, bucket)).collect(),
        }
    }

    pub(super) fn buckets(&self) -> u16 {
        u16::try_from(self.stream_keys.len()).unwrap_or(u16::MAX)
    }

    /// The bucket of a register.
    pub(super) fn bucket(&self, key: &str) -> u16 {
        self.register(key).bucket
    }

    pub(super) fn register<'a>(&self, key: &'a str) -> Register<'a> {
        let hash = fnv1a(key);
        let bucket = u16::try_from(hash % u64::from(self.buckets())).unwrap_or_default();
        Register { key, hash, bucket }
    }

    pub(super) fn register_key(&self, key: &str) -> String {
        let mut register_key = String::new();
        self.push_register_key(&self.register(key), &mut register_key);
        register_key
    }

    pub(super) fn push_register_key(&self, register: &Register<'_>, to: &mut String) {
        to.push_str(&self.register_prefixes[usize::from(register.bucket)]);
        to.push_str(register.key);
    }

    /// The key of the event stream of a bucket. On a cluster it is also the name of the channel that announces events.
    pub(super) fn stream_key(&self, bucket: u16) -> &str {
        &self.stream_keys[usize::from(bucket)]
    }

    /// A channel without readers. Who may publish on it may announce events.
    pub(super) fn probe_channel(&self, bucket: u16) -> String {
        format!("{}:{{{bucket}}}:probe", self.prefix)
    }

    /// The key that is written to have replicas confirm what was written to a bucket before.
    pub(super) fn confirmation_key(&self, bucket: u16) -> String {
        format!("{}:{{{bucket}}}:confirm", self.prefix)
    }

    /// The key that records the number of buckets.
    pub(super) fn buckets_key(&self) -> String {
        format!("{}:{{0}}:buckets", self.prefix)
    }

    pub(super) fn stream_keys(&self) -> &[String] {
        &self.stream_keys
    }

    /// The bucket with this stream.
    pub(super) fn bucket_of_stream(&self, stream_key: &str) -> Option<u16> {
        let bucket = stream_key.strip_prefix(&self.prefix)?.strip_prefix(":{")?.strip_suffix("}:events")?;
        bucket.parse().ok().filter(|bucket| *bucket < self.buckets())
    }

    /// The hash slots of all buckets on a cluster.
    pub(super) fn hash_slots(&self) -> Vec<u16> {
        (0..self.buckets()).map(|bucket| hash_slot(&bucket.to_string())).collect()
    }
}

fn stream_key(prefix: &str, bucket: u16) -> String {
    format!("{prefix}:{{{bucket}}}:events")
}

/// The hash slot of a hash tag: CRC-16/XMODEM, modulo their number (Redis Cluster specification, "Key distribution
/// model").
fn hash_slot(tag: &str) -> u16 {
    crc::Crc::<u16>::new(&crc::CRC_16_XMODEM).checksum(tag.as_bytes()) % HASH_SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bucket_of_a_user_never_changes() {
        let layout = Layout::new("lk", 64);
        assert_eq!(u64::from(layout.bucket("")), 0xcbf2_9ce4_8422_2325 % 64);
        let vector = 0x8594_4171_f739_67e8_u64;
        assert_eq!(u64::from(layout.bucket("foobar")), vector % 64, "the test vector of the FNV authors");
        assert_eq!(u64::from(Layout::new("lk", 4096).bucket("foobar")), vector % 4096);
        assert_eq!(layout.register_key("foobar"), "lk:{40}:s:foobar");
    }

    #[test]
    fn a_stream_key_names_its_bucket() {
        let layout = Layout::new("lk", 128);
        for bucket in 0..128 {
            assert_eq!(layout.bucket_of_stream(layout.stream_key(bucket)), Some(bucket));
        }
        for other in ["lk:{128}:events", "other:{1}:events", "lk:{1}:s:alice", "lk:{x}:events"] {
            assert_eq!(layout.bucket_of_stream(other), None, "{other}");
        }
    }

    #[test]
    fn the_hash_slot_of_a_tag_is_that_of_the_cluster_specification() {
        // CLUSTER KEYSLOT of Redis 7.0.
        assert_eq!(["123456789", "0", "63"].map(hash_slot), [12739, 13907, 10499]);
    }
}
