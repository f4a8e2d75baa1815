//! What has to be done for a service, from what is wanted and what is there. Pure: whoever dies in the middle begins
//! here again.

use crate::config::service::Restart;

/// What a document wants.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    /// What its containers are made from.
    pub(super) spec: &'a str,
    pub(super) replicas: u32,
    pub(super) runs: bool,
    pub(super) deleting: bool,
    pub(super) restart: Restart,
    /// Whether this wish failed lately, and is not to be tried yet.
    pub(super) failed: bool,
}

/// How it is with a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Created,
    Running,
    Restarting,
    Exited,
    /// It could not be removed; it never starts again.
    Dead,
    /// Paused, being removed.
    Other,
}

/// A container that is there.
#[derive(Debug, Clone)]
pub(super) struct Seen<'a> {
    pub(super) id: &'a str,
    pub(super) spec: &'a str,
    pub(super) replica: u32,
    pub(super) phase: Phase,
    pub(super) exit_code: i64,
    pub(super) ready: bool,
}

/// A step. The order within a plan does not matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Create(u32),
    Start(String),
    Stop(String),
    /// At once.
    Remove(String),
    /// When those who were sent there have had their answers.
    Retire(String),
}

/// What has to be done.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    /// The containers that requests go to.
    pub(super) serving: Vec<String>,
    /// Whether new containers start beside ready old ones.
    pub(super) updating: bool,
}

pub(super) fn plan(wanted: &Wanted<'_>, seen: &[Seen<'_>]) -> Plan {
    if wanted.deleting {
        let steps = seen.iter().map(|one| Step::Remove(one.id.to_owned())).collect();
        return Plan { steps, ..Plan::default() };
    }
    let is_dead = |one: &&Seen<'_>| one.phase == Phase::Dead;
    let mut plan = Plan {
        steps: seen.iter().filter(is_dead).map(|one| Step::Remove(one.id.to_owned())).collect(),
        ..Plan::default()
    };
    let (mut current, mut surplus, mut old) = (Vec::<Option<&Seen<'_>>>::new(), Vec::new(), Vec::new());
    current.resize(wanted.replicas as usize, None);
    let mut sorted: Vec<_> = seen.iter().filter(|one| !is_dead(one)).collect();
    // Of two of the same place the better one stays.
    sorted.sort_by_key(|one| (!one.ready, one.phase != Phase::Running, one.id));
    for one in sorted {
        match current.get_mut(one.replica as usize) {
            Some(place) if one.spec == wanted.spec && place.is_none() => *place = Some(one),
            // One more than is wanted is as good as the others.
            _ if one.spec == wanted.spec => surplus.push(one),
            _ => old.push(one),
        }
    }
    if !wanted.runs {
        let ending =
            current.iter().flatten().filter(|one| one.phase != Phase::Exited && one.phase != Phase::Created);
        plan.steps.extend(ending.map(|one| Step::Stop(one.id.to_owned())));
        plan.steps.extend(surplus.iter().chain(&old).map(|one| Step::Remove(one.id.to_owned())));
        return plan;
    }
    let complete = current.iter().all(|place| place.is_some_and(|one| one.ready));
    let ready = |list: &[&Seen<'_>]| -> Vec<String> {
        list.iter().filter(|one| one.ready).map(|one| one.id.to_owned()).collect()
    };
    let ready_old = ready(&old);
    if complete || ready_old.is_empty() {
        let mut present: Vec<_> = current.iter().flatten().copied().collect();
        if !complete {
            present.extend(&surplus);
        }
        plan.serving = ready(&present);
    } else {
        plan.serving = ready_old;
        plan.updating = true;
    }
    if complete {
        plan.steps.extend(surplus.iter().chain(&old).map(|one| Step::Retire(one.id.to_owned())));
        return plan;
    }
    if current.iter().all(Option::is_some) {
        // Who has ended, or ends again and again, is of no use to anybody when those that are wanted are there.
        let useless = |one: &&&Seen<'_>| !matches!(one.phase, Phase::Running | Phase::Other);
        plan.steps.extend(old.iter().filter(useless).map(|one| Step::Remove(one.id.to_owned())));
    }
    if wanted.failed {
        // What serves goes on; what failed goes. Where nothing serves it is left for people to look at.
        if plan.updating {
            plan.steps.extend(current.iter().flatten().map(|one| Step::Remove(one.id.to_owned())));
        }
        return plan;
    }
    for (replica, place) in (0..).zip(&current) {
        match place {
            None => plan.steps.push(Step::Create(replica)),
            Some(one) if is_to_start(one, wanted.restart) => plan.steps.push(Step::Start(one.id.to_owned())),
            Some(_) => {}
        }
    }
    plan
}

/// Whether a container that does not run shall: the engine starts those that end by themselves.
const fn is_to_start(one: &Seen<'_>, restart: Restart) -> bool {
    match (one.phase, restart) {
        (Phase::Created, _) => true,
        (Phase::Exited, Restart::Always | Restart::UnlessStopped) => true,
        (Phase::Exited, Restart::OnFailure) => one.exit_code != 0,
        (Phase::Exited, Restart::No)
        | (Phase::Running | Phase::Restarting | Phase::Dead | Phase::Other, _) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: Wanted<'_> = Wanted {
        spec: "new",
        replicas: 1,
        runs: true,
        deleting: false,
        restart: Restart::UnlessStopped,
        failed: false,
    };

    fn seen<'a>(id: &'a str, spec: &'a str, phase: Phase, ready: bool) -> Seen<'a> {
        Seen { id, spec, replica: 0, phase, exit_code: 0, ready }
    }

    fn seen_new(id: &str) -> Seen<'_> {
        seen(id, "new", Phase::Running, true)
    }

    fn plan_of(wanted: &Wanted<'_>, seen: &[Seen<'_>]) -> (Vec<Step>, Vec<String>) {
        let plan = plan(wanted, seen);
        (plan.steps, plan.serving)
    }

    fn ids(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn an_update_serves_the_old_until_the_new_is_ready() {
        let old = seen("o", "old", Phase::Running, true);
        assert_eq!(plan_of(&WANTED, &[]), (vec![Step::Create(0)], vec![]));
        assert_eq!(plan_of(&WANTED, std::slice::from_ref(&old)), (vec![Step::Create(0)], ids(&["o"])));
        let starting = seen("n", "new", Phase::Created, false);
        let steps = vec![Step::Start("n".into())];
        assert_eq!(plan_of(&WANTED, &[old.clone(), starting]), (steps, ids(&["o"])));
        let starting = seen("n", "new", Phase::Running, false);
        assert_eq!(plan_of(&WANTED, &[old.clone(), starting.clone()]), (vec![], ids(&["o"])));
        let ready = seen("n", "new", Phase::Running, true);
        assert_eq!(plan_of(&WANTED, &[old.clone(), ready]), (vec![Step::Retire("o".into())], ids(&["n"])));
        let failed = Wanted { failed: true, ..WANTED };
        assert_eq!(plan_of(&failed, &[old, starting.clone()]), (vec![Step::Remove("n".into())], ids(&["o"])));
        assert_eq!(plan_of(&failed, &[starting]), (vec![], vec![]), "nothing better is there");
    }

    #[test]
    fn every_moment_of_an_update_goes_on_to_the_same_end() {
        // Whatever was done when somebody died: the plan leads to one ready container of the new kind.
        for old in [None, Some(Phase::Running), Some(Phase::Exited)] {
            for new in [None, Some(Phase::Created), Some(Phase::Running), Some(Phase::Exited)] {
                let mut there: Vec<(String, &str, Phase)> = Vec::new();
                there.extend(old.map(|phase| ("o".to_owned(), "old", phase)));
                there.extend(new.map(|phase| ("n".to_owned(), "new", phase)));
                let mut rounds = 0;
                loop {
                    let list: Vec<_> = there
                        .iter()
                        .map(|(id, spec, phase)| seen(id, spec, *phase, *phase == Phase::Running))
                        .collect();
                    let steps = plan(&WANTED, &list).steps;
                    if steps.is_empty() {
                        break;
                    }
                    rounds += 1;
                    assert!(rounds < 5, "{old:?} {new:?} does not end");
                    for step in steps {
                        match step {
                            Step::Create(_) => there.push(("n".to_owned(), "new", Phase::Created)),
                            Step::Start(id) => there
                                .iter_mut()
                                .filter(|one| one.0 == id)
                                .for_each(|one| one.2 = Phase::Running),
                            Step::Stop(id) => there
                                .iter_mut()
                                .filter(|one| one.0 == id)
                                .for_each(|one| one.2 = Phase::Exited),
                            Step::Remove(id) | Step::Retire(id) => there.retain(|one| one.0 != id),
                        }
                    }
                }
                assert_eq!(there, [("n".to_owned(), "new", Phase::Running)], "{old:?} {new:?}");
            }
        }
    }

    #[test]
    fn replicas_come_and_go_by_their_number() {
        let two = Wanted { replicas: 2, ..WANTED };
        let first = seen("a", "new", Phase::Running, true);
        assert_eq!(plan_of(&two, std::slice::from_ref(&first)), (vec![Step::Create(1)], ids(&["a"])));
        let second = Seen { replica: 1, ..seen("b", "new", Phase::Running, true) };
        assert_eq!(plan_of(&two, &[first.clone(), second.clone()]), (vec![], ids(&["a", "b"])));
        assert_eq!(
            plan_of(&WANTED, &[first.clone(), second.clone()]),
            (vec![Step::Retire("b".into())], ids(&["a"]))
        );
        let sick = Seen { ready: false, ..second.clone() };
        let seen = [first.clone(), sick.clone()];
        assert_eq!(plan_of(&two, &seen), (vec![], ids(&["a"])), "who is not ready gets no traffic");
        // Fewer are wanted while one is sick: those that are well go on.
        let third = Seen { replica: 2, ..seen_new("c") };
        let failed = Wanted { failed: true, ..two };
        for wanted in [two, failed] {
            let seen = [first.clone(), sick.clone(), third.clone()];
            assert_eq!(plan_of(&wanted, &seen), (vec![], ids(&["a", "c"])));
        }
        let seen = [first, second, third];
        assert_eq!(plan_of(&two, &seen), (vec![Step::Retire("c".into())], ids(&["a", "b"])));
    }

    #[test]
    fn what_ended_or_fails_goes_when_its_successor_is_there() {
        let old = [seen("o", "old", Phase::Exited, false), seen("p", "old", Phase::Restarting, false)];
        let gone = vec![Step::Remove("o".into()), Step::Remove("p".into())];
        for phase in [Phase::Exited, Phase::Restarting, Phase::Running] {
            let all = [seen("n", "new", phase, false), old[0].clone(), old[1].clone()];
            let wanted = Wanted { restart: Restart::No, ..WANTED };
            assert_eq!(plan_of(&wanted, &all), (gone.clone(), vec![]), "{phase:?}");
        }
        assert_eq!(plan_of(&WANTED, &old), (vec![Step::Create(0)], vec![]));
    }

    #[test]
    fn what_shall_not_run_ends_and_what_goes_is_removed() {
        let stopped = Wanted { runs: false, ..WANTED };
        let running = seen("n", "new", Phase::Running, true);
        let old = seen("o", "old", Phase::Exited, false);
        let steps = vec![Step::Stop("n".into()), Step::Remove("o".into())];
        assert_eq!(plan_of(&stopped, &[running.clone(), old]), (steps, vec![]));
        assert_eq!(plan_of(&stopped, &[seen("n", "new", Phase::Exited, false)]), (vec![], vec![]));
        let deleting = Wanted { deleting: true, ..WANTED };
        assert_eq!(plan_of(&deleting, &[running]), (vec![Step::Remove("n".into())], vec![]));
    }

    #[test]
    fn who_ended_starts_again_as_the_document_says() {
        let ended = |code, restart| {
            let one = Seen { exit_code: code, ..seen("n", "new", Phase::Exited, false) };
            !plan(&Wanted { restart, ..WANTED }, &[one]).steps.is_empty()
        };
        assert!(
            ended(0, Restart::Always) && ended(0, Restart::UnlessStopped) && ended(1, Restart::OnFailure)
        );
        assert!(!ended(0, Restart::OnFailure) && !ended(1, Restart::No));
    }
}
