//! The tables of `docs/scaling.md`.

use std::fmt::Write as _;

use crate::{
    constants::Constants,
    model::{Assumptions, Needs, needs, users_until},
};

type Shown = fn(&Needs) -> String;

const ROWS: [(&str, Shown); 18] = [
    ("users with a register", |needs| number(needs.registers)),
    ("Redis memory of one copy", |needs| bytes(needs.memory)),
    ("– of it event streams", |needs| bytes(needs.event_memory)),
    ("Validates/s", |needs| number(needs.validates)),
    ("logins/s", |needs| number(needs.logins)),
    ("recorded uses/s", |needs| number(needs.touches)),
    ("commits/s", |needs| number(needs.commits)),
    ("events/s, each read by every server", |needs| number(needs.events)),
    ("cores that hash passwords", |needs| number(needs.hashing_cores)),
    ("Latchkey cores for requests", |needs| number(needs.request_cores)),
    ("follower of events, of one core on each server", |needs| percent(needs.follower_load)),
    ("Latchkey servers", |needs| count(needs, needs.servers)),
    ("buckets", |needs| format!("{:.0}", needs.buckets)),
    ("Redis cores for requests", |needs| number(needs.redis_request_cores)),
    ("Redis cores for followers", |needs| count(needs, needs.redis_follower_cores)),
    ("Redis masters", |needs| count(needs, needs.nodes)),
    ("connections of a master", |needs| count(needs, needs.connections_of_a_node)),
    ("connections of a server to Redis", |needs| count(needs, needs.connections_of_a_server)),
];

type Reached = fn(&Assumptions, &Needs) -> bool;

const LIMITS: [(&str, Reached); 6] = [
    ("More than one Redis master", |a, needs| {
        needs.redis_request_cores + needs.redis_follower_cores > a.load
    }),
    ("Following events takes half of a core on each server", |_, needs| needs.follower_load >= 0.5),
    ("Followers cost Redis as much as requests", |_, needs| {
        needs.redis_follower_cores >= needs.redis_request_cores && needs.events >= 100.0
    }),
    ("Polls take a tenth of each master", |_, needs| needs.poll_load >= 0.1),
    ("4096 buckets are fewer than 6 on each master", |_, needs| needs.nodes * 6.0 > 4096.0),
    ("One more server no longer helps", |_, needs| needs.is_impossible()),
];

pub(crate) fn all(constants: &Constants, assumptions: &Assumptions) -> String {
    let columns: Vec<_> =
        assumptions.users.iter().map(|users| needs(constants, assumptions, *users)).collect();
    let mut text = String::from("| in the busiest second |");
    for users in &assumptions.users {
        let _ = write!(text, " {} users |", number(*users));
    }
    text += "\n|---|";
    text += &"---:|".repeat(columns.len());
    text.push('\n');
    for (name, shown) in ROWS {
        let _ = write!(text, "| {name} |");
        for needs in &columns {
            let _ = write!(text, " {} |", shown(needs));
        }
        text.push('\n');
    }

    text += "\n| it bends here | from this many users on |\n|---|---:|\n";
    for (name, reached) in LIMITS {
        let users = users_until(constants, assumptions, |needs| reached(assumptions, needs));
        let _ = writeln!(text, "| {name} | {} |", users.map_or_else(|| "–".into(), number));
    }

    text += "\n| measured | | | from |\n|---|---:|---|---|\n";
    for constant in constants.all() {
        let _ = writeln!(
            text,
            "| `{}` | {} | {} | {} |",
            constant.name, constant.value, constant.unit, constant.source
        );
    }
    text
}

/// Two significant digits, with a unit.
fn number(value: f64) -> String {
    for (unit, name) in [(1e9, " billion"), (1e6, " million")] {
        if value >= unit {
            return format!("{}{name}", two_digits(value / unit));
        }
    }
    two_digits(value)
}

fn two_digits(value: f64) -> String {
    if value <= 0.0 {
        return "0".to_owned();
    }
    let scale = 10_f64.powf(value.log10().floor() - 1.0);
    let rounded = (value / scale).round() * scale;
    if rounded >= 10.0 {
        return format!("{rounded:.0}");
    }
    let shown = if rounded >= 1.0 { format!("{rounded:.1}") } else { format!("{rounded:.2}") };
    shown.strip_suffix(".0").map_or(shown.clone(), str::to_owned)
}

fn bytes(value: f64) -> String {
    for (unit, name) in [(1e12, "TB"), (1e9, "GB"), (1e6, "MB")] {
        if value >= unit {
            return format!("{} {name}", two_digits(value / unit));
        }
    }
    format!("{} kB", two_digits(value / 1e3))
}

fn percent(value: f64) -> String {
    format!("{} %", two_digits(value * 100.0))
}

fn count(needs: &Needs, value: f64) -> String {
    if needs.is_impossible() { "without end".to_owned() } else { number(value) }
}
