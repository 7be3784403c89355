//! What the demo found, as a table for people, and whether all of it is as promised.
//!
//! [`Findings`] in, text and a list of broken promises out; pure. No secret is in a finding.

use std::time::Duration;

use super::progress::gib;
use crate::registry::Account;

/// Everything that was found out.
pub(crate) struct Findings {
    /// The account that the registry demands.
    pub(crate) robot: String,
    /// What the registry was shown.
    pub(crate) seen: Account,
    /// Digests as pushed and as pulled, by what they are of.
    pub(crate) digests: Vec<(&'static str, String, String)>,
    /// The layer's size in bytes.
    pub(crate) length: u64,
    /// How long the layer took to push and what processor seconds the proxy spent on it.
    pub(crate) push: (Duration, f64),
    /// The same for pulling it.
    pub(crate) pull: (Duration, f64),
    /// The proxy's I/O driver.
    pub(crate) io: String,
    /// The proxy's cores.
    pub(crate) cores: u64,
    /// What callers without a right were told: who, expected status, status, words.
    pub(crate) refusals: Vec<(&'static str, u16, u16, String)>,
}

impl Findings {
    /// The promises that were not kept; empty when all is well.
    pub(crate) fn broken(&self) -> Vec<String> {
        let mut broken = Vec::new();
        let mut demand = |kept: bool, what: String| {
            if !kept {
                broken.push(what);
            }
        };
        let seen = &self.seen;
        let users: Vec<&str> = seen.users.keys().map(String::as_str).collect();
        demand(users == [self.robot.as_str()], format!("the registry saw the users {users:?}"));
        demand(seen.marked == 0, format!("{} requests carried a Pod's token", seen.marked));
        demand(seen.foreign == 0, format!("{} requests held other credentials", seen.foreign));
        demand(seen.refused == 0, format!("the registry refused {} requests", seen.refused));
        for (what, pushed, pulled) in &self.digests {
            demand(pushed == pulled, format!("{what}: pushed {pushed}, pulled {pulled}"));
        }
        for (who, expected, status, _) in &self.refusals {
            demand(expected == status, format!("{who}: {status} instead of {expected}"));
        }
        broken
    }

    /// The table.
    pub(crate) fn table(&self) -> String {
        let mut lines = String::new();
        let mut line = |text: String| {
            lines.push_str(text.trim_end());
            lines.push('\n');
        };
        let seen = &self.seen;
        line("\nWhat the registry saw".to_owned());
        for (user, count) in &seen.users {
            line(format!("  {user:<24} {count} of {} requests", seen.requests));
        }
        line(format!(
            "  {:<24} {} requests carried the Pod's token",
            "the Pod's token", seen.marked
        ));
        line(format!("  {:<24} {} requests", "any other credential", seen.foreign));
        line("\nDigests, as pushed and as pulled".to_owned());
        for (what, pushed, pulled) in &self.digests {
            let verdict = if pushed == pulled { "equal" } else { "DIFFERENT" };
            line(format!("  {what:<10} {pushed}\n  {:<10} {pulled}  {verdict}", ""));
        }
        line(format!("\n{:<28}{:>8}   {:>9}", "One layer through the proxy", "GiB/s", "CPU s/GiB"));
        let size = gib(self.length);
        for (what, (took, cpu)) in [("push", self.push), ("pull", self.pull)] {
            let speed = size / took.as_secs_f64().max(1e-9);
            line(format!("  {what} of {size:<7.3} GiB{:>19.2}   {:>9.3}", speed, cpu / size));
        }
        line(format!(
            "  (CPU: of the proxy's process; it ran on {}, {} cores)",
            self.io, self.cores
        ));
        line("\nWho is turned away".to_owned());
        for (who, _, status, words) in &self.refusals {
            line(format!("  {who:<24} {status} {words}"));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Findings {
        let seen = Account {
            requests: 9,
            users: [("robot$demo".to_owned(), 9)].into(),
            ..Account::default()
        };
        let same = || "sha256:00".to_owned();
        Findings {
            robot: "robot$demo".to_owned(),
            seen,
            digests: vec![("layer", same(), same())],
            length: 1 << 30,
            push: (Duration::from_millis(500), 0.16),
            pull: (Duration::from_secs(1), 0.17),
            io: "epoll".to_owned(),
            cores: 2,
            refusals: vec![("a wrong token", 401, 401, "UNAUTHORIZED: x".to_owned())],
        }
    }

    #[test]
    fn the_table_says_what_the_registry_saw_and_what_it_cost() {
        let table = good().table();
        for part in [
            "robot$demo               9 of 9 requests\n",
            "0 requests carried the Pod's token\n",
            "sha256:00  equal\n",
            "2.00       0.160\n",
            "1.00       0.170\n",
            "it ran on epoll, 2 cores",
            "a wrong token            401 UNAUTHORIZED: x\n",
        ] {
            assert!(table.contains(part), "{part:?} is not in {table}");
        }
        assert!(good().broken().is_empty());
    }

    #[test]
    fn every_broken_promise_is_named() {
        let spoil: [fn(&mut Findings); 6] = [
            |found| found.seen.marked = 1,
            |found| found.seen.foreign = 1,
            |found| found.seen.refused = 1,
            |found| found.seen.users.extend([("pod".to_owned(), 1)]),
            |found| found.digests[0].2 = "sha256:11".to_owned(),
            |found| found.refusals[0].2 = 200,
        ];
        for spoil in spoil {
            let mut found = good();
            spoil(&mut found);
            assert_eq!(found.broken().len(), 1);
        }
    }
}
