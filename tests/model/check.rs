//! Runs a model, and checks what its test claims.
//!
//! 1. [`holds`]: the search visits every reachable state, and no claim is broken in any of them. The search must also visit
//!    enough states, and every situation that the model names.
//! 2. [`breaks`]: the named claim is broken. Prints the shortest path to it.
//!
//! Invariant: a search that ends early, or that never meets its situations, fails.
//! Not here: the claims of each model.

use std::{
    fmt::{Debug, Display},
    hash::Hash,
    time::Instant,
};

use stateright::{Checker, Expectation, HasDiscoveries, Model, Path};

/// A claim about a model: the name of the property, which is printed.
pub(crate) type Claim = &'static str;

/// Returns whether the large bounds were requested. They take minutes in a release build.
pub(crate) fn wide() -> bool {
    std::env::var_os("LARDER_MODEL").is_some_and(|bounds| bounds == "wide")
}

/// Asserts that every claim of the model holds in every reachable state, and that there are at least `at_least` states.
pub(crate) fn holds<M>(name: &str, model: M, at_least: usize)
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync,
    M::Action: Clone + Display + PartialEq,
{
    let started = now();
    let checker = model
        .checker()
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    let states = checker.unique_state_count();
    let mut claims = 0;
    for property in checker.model().properties() {
        let found = checker.discovery(property.name);
        match property.expectation {
            Expectation::Always | Expectation::Eventually => {
                claims += 1;
                if let Some(path) = found {
                    panic!(
                        "{name}: `{}` does not hold:\n{}",
                        property.name,
                        detailed(path)
                    );
                }
            }
            Expectation::Sometimes => assert!(
                found.is_some(),
                "{name}: it never happens that {}, so the search proves little",
                property.name
            ),
        }
    }
    assert!(claims > 0, "{name}: nothing is claimed");
    assert!(checker.is_done(), "{name}: the search ended early");
    assert!(
        states >= at_least,
        "{name}: only {states} states were met, so the model has lost its teeth"
    );
    report(name, states, started, "holds");
}

/// Asserts that a claim of the model does not hold, and prints the path to the state.
pub(crate) fn breaks<M>(name: &str, model: &M, claim: Claim)
where
    M: Model + Clone + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync,
    M::Action: Clone + Display + PartialEq,
{
    let started = now();
    let mut shortest: Option<Vec<M::Action>> = None;
    let mut depth = usize::MAX;
    let states = loop {
        let checker = model
            .clone()
            .checker()
            .finish_when(HasDiscoveries::AnyOf([claim].into()))
            .target_max_depth(depth)
            .spawn_bfs()
            .join();
        let Some(path) = checker.discovery(claim) else {
            break checker.unique_state_count();
        };
        // The search continues for a while after its first counterexample, and returns the last one. So look for a shorter
        // one.
        let steps = path.into_actions();
        // The first state has depth one, and states at `depth` or deeper are not visited.
        depth = steps.len() + 1;
        shortest = Some(steps);
    };
    let Some(steps) = shortest else {
        panic!("{name}: `{claim}` holds in all {states} states, although it must not");
    };
    let steps: Vec<String> = steps.iter().map(ToString::to_string).collect();
    let result = format!(
        "broken, as it must be, in {} steps: {}",
        steps.len(),
        steps.join("; ")
    );
    report(name, states, started, &result);
}

/// Returns a counterexample as text: one step per line, with the state that follows it.
fn detailed<S: Debug, A: Display>(path: Path<S, A>) -> String {
    let mut lines = String::new();
    for (state, action) in path.into_vec() {
        lines += &format!("    {state:?}\n");
        if let Some(action) = action {
            lines += &format!("{action}\n");
        }
    }
    lines
}

fn report(name: &str, states: usize, started: Instant, result: &str) {
    let seconds = started.elapsed().as_secs_f64();
    println!("model: {name}: {states} states, {seconds:.2} s: {result}");
}

#[expect(
    clippy::disallowed_methods,
    reason = "how long a search takes is reported, and decides nothing"
)]
fn now() -> Instant {
    Instant::now()
}
