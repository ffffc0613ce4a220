//! A call of a Lua script.

use redis::{Cmd, Script, ScriptInvocation};

/// A script with its keys and arguments.
pub(super) struct ScriptCall<'a> {
    pub(super) script: &'a Script,
    pub(super) keys: Vec<String>,
    pub(super) arguments: Vec<Vec<u8>>,
}

impl ScriptCall<'_> {
    /// The call, which loads the script if the server does not have it.
    pub(super) fn invocation(&self) -> ScriptInvocation<'_> {
        let mut invocation = self.script.prepare_invoke();
        for key in &self.keys {
            invocation.key(key);
        }
        for argument in &self.arguments {
            invocation.arg(argument);
        }
        invocation
    }

    /// The call as a single command.
    pub(super) fn evalsha(&self) -> Cmd {
        let mut command = redis::cmd("EVALSHA");
        command.arg(self.script.get_hash()).arg(self.keys.len()).arg(&self.keys).arg(&self.arguments);
        command
    }
}
