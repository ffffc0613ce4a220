//! Every RPC, reason and status.

mod login;
