//! Where a comparison was made, and with whom: the first line of its results.

use super::contenders::Contender;
use crate::machine;
use crate::results::Machine;

/// This machine, of which the run may use `cpus` processors, and the versions of who takes part.
pub(crate) fn describe(contenders: &[Contender], cpus: usize, own_namespace: bool) -> Machine {
    let others = contenders.iter().filter(|contender| **contender != Contender::Floor);
    let versions = others.map(|contender| (contender.name().to_owned(), contender.version()));
    let mut described = machine::describe();
    described.versions.extend(versions);
    // Without what only we add.
    let command = machine::command(|word| word != super::ground::INSIDE);
    Machine { cpus, own_namespace, command, ..described }
}
