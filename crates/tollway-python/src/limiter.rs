//! The limiter as Python sees it: sync and async faces of one call.

mod asking;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::PyTuple;
use pyo3::{PyTraverseError, PyVisit};
use tollway::{Charge, Reply};

use crate::answers::{Policies, finish, nothing, wait};
use crate::awaiting::Ready;
use crate::breaker::Breaker;
use crate::charges::{Charges, checked};
use crate::clock::ManualClock;
use crate::decision::Decision;
use crate::errors;
use crate::health::Health;
use crate::hold::Held;
use crate::observe::hooks::Hooks;
use crate::policy::Policy;
use crate::reservation::Reservation;
use crate::stores::{self, Recipe, patience, timeout, usable_prefix};

pub(crate) use asking::Asking;

/// Decides requests over a backend given by URL.
#[pyclass(frozen, module = "tollway", weakref)]
pub struct Limiter {
    recipe: Recipe,
    /// The process the limiter was made in, and the limiter. A forked child makes its own, and so
    /// does whoever uses it after it was closed.
    made: Mutex<Option<(u32, Arc<tollway::Limiter>)>>,
    /// The same without the lock, when a fork changes nothing.
    local: Option<Arc<tollway::Limiter>>,
    default_policy: Option<Py<Policy>>,
    hooks: Option<Arc<Hooks>>,
}

impl Limiter {
    /// Whether the answer is there at once.
    pub(crate) fn is_here(&self) -> bool {
        self.recipe.is_here()
    }

    /// The limiter of this process.
    pub(crate) fn shared(&self) -> PyResult<Arc<tollway::Limiter>> {
        if let Some(local) = &self.local {
            return Ok(Arc::clone(local));
        }
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let here = std::process::id();
        if let Some((process, limiter)) = &*made
            && *process == here
        {
            return Ok(Arc::clone(limiter));
        }
        let limiter = Arc::new(self.recipe.make()?);
        // A parent's limiter is left alone: its threads are not in this process.
        std::mem::forget(made.replace((here, Arc::clone(&limiter))));
        Ok(limiter)
    }

    /// Forgets this process's limiter; what gives back its leases, when it may have some.
    fn let_go(&self) -> Option<Reply<()>> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let is_ours = made.as_ref().is_some_and(|(process, _)| *process == std::process::id());
        let (_, limiter) = made.take_if(|_| is_ours && self.local.is_none())?;
        self.recipe.lease.map(|_| limiter.give_back())
    }

    /// What two limiters that share their counts have in common: the URLs that they count at, which
    /// may hold passwords, or that they are one.
    pub(crate) fn counts_at(&self) -> String {
        self.recipe.counts_at().unwrap_or_else(|| format!("{self:p}"))
    }

    fn resetting(&self, policy: &Bound<'_, Policy>, key: Option<&str>, prefix: Option<&str>) -> PyResult<Reply<()>> {
        let (limiter, policy) = (self.shared()?, &policy.get().inner);
        match (key, prefix) {
            (Some(key), None) => Ok(limiter.reset(policy, key)),
            (None, Some(prefix)) => Ok(limiter.reset_prefix(policy, prefix)),
            _ => Err(errors::config("reset() takes a key, or prefix=\"...\" for all keys that begin so")),
        }
    }

    fn single<'a>(&self, policy: &'a Bound<'_, Policy>, key: &'a str, cost: i64) -> PyResult<(Charge<'a>, Policies)> {
        let policy = policy.get();
        let charge = Charge { policy: &policy.inner, key, cost: checked(cost)? };
        Ok((charge, Arc::clone(&policy.alone)))
    }
}

#[pymethods]
impl Limiter {
    #[new]
    #[pyo3(signature = (url = None, default_policy = None, *, fail_mode = "local",
        local_share = 1.0, prefix = "tollway", connect_timeout = 1.0, command_timeout = 0.1, queue = 10_000, max_keys = 1_000_000,
        strategy = "first_healthy", near_cache = 1.0, lease = 0, lease_time = 1.0, breaker = None, clock = None,
        on_decision = None, on_error = None))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of the Python class")]
    fn new(
        py: Python<'_>,
        url: Option<&Bound<'_, PyAny>>,
        default_policy: Option<Py<Policy>>,
        fail_mode: &str,
        local_share: f64,
        prefix: &str,
        connect_timeout: f64,
        command_timeout: f64,
        queue: usize,
        max_keys: usize,
        strategy: &str,
        near_cache: f64,
        lease: i64,
        lease_time: f64,
        breaker: Option<&Bound<'_, Breaker>>,
        clock: Option<&Bound<'_, ManualClock>>,
        on_decision: Option<Py<PyAny>>,
        on_error: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let recipe = Recipe {
            backends: stores::backends(url, timeout("command_timeout", command_timeout)?)?,
            strategy: strategy.parse().map_err(|error| errors::from_config(&error))?,
            near_cache: if near_cache == 0.0 { Duration::ZERO } else { timeout("near_cache", near_cache)? },
            lease: stores::usable_lease(lease, lease_time)?,
            breaker: breaker.map(|breaker| breaker.get().settings).unwrap_or_default(),
            fail_mode: fail_mode.parse().map_err(|error| errors::from_config(&error))?,
            local_share,
            prefix: usable_prefix(prefix)?,
            connect_timeout: timeout("connect_timeout", connect_timeout)?,
            command_timeout: timeout("command_timeout", command_timeout)?,
            queue: stores::usable_queue(queue)?,
            max_keys,
            clock: clock.map(|clock| clock.get().inner.clone() as Arc<dyn tollway::Clock>),
        };
        let made = Arc::new(recipe.make()?);
        if let Some(policy) = &default_policy {
            made.keeps(&policy.get().inner).map_err(|error| errors::from_config(&error))?;
        }
        Ok(Self {
            local: recipe.is_local().then(|| Arc::clone(&made)),
            recipe,
            made: Mutex::new(Some((std::process::id(), made))),
            default_policy,
            hooks: Hooks::read(py, on_decision, on_error, false)?,
        })
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.default_policy.iter().try_for_each(|policy| visit.call(policy))?;
        self.hooks.iter().try_for_each(|hooks| hooks.traverse(&visit))
    }

    /// The backend, without its password.
    #[getter]
    fn url(&self) -> PyResult<String> {
        Ok(self.shared()?.store().name().to_owned())
    }

    /// What is answered when the backend does not: `"open"`, `"closed"` or `"local"`.
    #[getter]
    fn fail_mode(&self) -> &'static str {
        self.recipe.fail_mode.name()
    }

    /// The policy that doors use where none is named.
    #[getter]
    fn default_policy(&self, py: Python<'_>) -> Option<Py<Policy>> {
        self.default_policy.as_ref().map(|policy| policy.clone_ref(py))
    }

    /// Charges `cost` permits of `policy` to `key`. One round trip on a remote backend.
    #[pyo3(signature = (policy, key, cost = 1))]
    fn check(&self, py: Python<'_>, policy: &Bound<'_, Policy>, key: &str, cost: i64) -> PyResult<Decision> {
        let (charge, policies) = self.single(policy, key, cost)?;
        self.decide(py, &[charge], policies, false)
    }

    /// The same for `await`.
    #[pyo3(signature = (policy, key, cost = 1))]
    fn acheck<'py>(
        &self,
        py: Python<'py>,
        policy: &Bound<'py, Policy>,
        key: &str,
        cost: i64,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (charge, policies) = self.single(policy, key, cost)?;
        self.adecide(py, &[charge], policies, false)
    }

    /// Charges several policies, together or not at all, in one round trip. Reports the tightest.
    fn check_all(&self, py: Python<'_>, charges: Vec<Bound<'_, PyTuple>>) -> PyResult<Decision> {
        let charges = Charges::new(&charges)?;
        self.decide(py, &charges.borrow(), charges.policies(), false)
    }

    /// The same for `await`.
    fn acheck_all<'py>(&self, py: Python<'py>, charges: Vec<Bound<'py, PyTuple>>) -> PyResult<Bound<'py, PyAny>> {
        let charges = Charges::new(&charges)?;
        self.adecide(py, &charges.borrow(), charges.policies(), false)
    }

    /// Decides many charges, each for itself, in one round trip.
    fn check_many(&self, py: Python<'_>, charges: Vec<Bound<'_, PyTuple>>) -> PyResult<Vec<Decision>> {
        self.decide_many(py, &Charges::new(&charges)?)
    }

    /// The same for `await`.
    fn acheck_many<'py>(&self, py: Python<'py>, charges: Vec<Bound<'py, PyTuple>>) -> PyResult<Bound<'py, PyAny>> {
        self.adecide_many(py, &Charges::new(&charges)?)
    }

    /// Waits up to `timeout` seconds until the charge passes, first come first served in this
    /// process. A wait that cannot succeed in time is not begun. Two round trips, usually.
    #[pyo3(signature = (policy, key, cost = 1, *, timeout))]
    fn acquire(
        &self,
        py: Python<'_>,
        policy: &Bound<'_, Policy>,
        key: &str,
        cost: i64,
        timeout: f64,
    ) -> PyResult<Decision> {
        let (charge, policies) = self.single(policy, key, cost)?;
        let asking = self.asking("acquire", &[charge])?;
        let answer = asking.limiter.acquire(&[charge], patience(timeout)?);
        asking.told_one(py, finish(wait(py, answer)?, policies))
    }

    /// The same for `await`.
    #[pyo3(signature = (policy, key, cost = 1, *, timeout))]
    fn aacquire<'py>(
        &self,
        py: Python<'py>,
        policy: &Bound<'py, Policy>,
        key: &str,
        cost: i64,
        timeout: f64,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (charge, policies) = self.single(policy, key, cost)?;
        let asking = self.asking("acquire", &[charge])?;
        let answer = asking.limiter.acquire(&[charge], patience(timeout)?);
        self.later_told(py, asking, answer, move |answer| finish(answer, policies))
    }

    /// Gives permits back: at most what is spent. One round trip on a remote backend.
    #[pyo3(signature = (policy, key, cost = 1))]
    fn refund(&self, py: Python<'_>, policy: &Bound<'_, Policy>, key: &str, cost: i64) -> PyResult<Decision> {
        let reply = self.shared()?.refund(&policy.get().inner, key, checked(cost)?);
        finish(wait(py, reply)?, Arc::clone(&policy.get().alone))
    }

    /// The same for `await`.
    #[pyo3(signature = (policy, key, cost = 1))]
    fn arefund<'py>(
        &self,
        py: Python<'py>,
        policy: &Bound<'py, Policy>,
        key: &str,
        cost: i64,
    ) -> PyResult<Bound<'py, PyAny>> {
        let reply = self.shared()?.refund(&policy.get().inner, key, checked(cost)?);
        let policies = Arc::clone(&policy.get().alone);
        self.later(py, reply, move |py, answer| Ok(Py::new(py, finish(answer, policies)?)?.into_any()))
    }

    /// Charges `cost` for now; `commit` on what it returns settles what it really was. Two round
    /// trips on a remote backend.
    fn reserve(this: &Bound<'_, Self>, policy: &Bound<'_, Policy>, key: &str, cost: i64) -> PyResult<Reservation> {
        let (py, (charge, policies)) = (this.py(), this.get().single(policy, key, cost)?);
        let asking = this.get().asking("reserve", &[charge])?;
        let reply = asking.limiter.reserve(charge.policy, key, charge.cost);
        let held = asking.told_of_permits(py, wait(py, reply)?, tollway::Reservation::decision, &policies)?;
        Reservation::new(py, this.clone().unbind(), held, policies)
    }

    /// The same for `await`.
    fn areserve<'py>(
        this: &Bound<'py, Self>,
        policy: &Bound<'py, Policy>,
        key: &str,
        cost: i64,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (py, (charge, policies)) = (this.py(), this.get().single(policy, key, cost)?);
        let mut asking = this.get().asking("reserve", &[charge])?;
        let reply = asking.limiter.reserve(charge.policy, key, charge.cost);
        asking.goes_elsewhere(py)?;
        let limiter = this.clone().unbind();
        this.get().later(py, reply, move |py, answer| {
            let held = asking.told_of_permits(py, answer, tollway::Reservation::decision, &policies)?;
            Ok(Py::new(py, Reservation::new(py, limiter, held, policies)?)?.into_any())
        })
    }

    /// What `check` would answer; spends nothing. One round trip on a remote backend.
    #[pyo3(signature = (policy, key, cost = 1))]
    fn peek(&self, py: Python<'_>, policy: &Bound<'_, Policy>, key: &str, cost: i64) -> PyResult<Decision> {
        let (charge, policies) = self.single(policy, key, cost)?;
        self.decide(py, &[charge], policies, true)
    }

    /// The same for `await`.
    #[pyo3(signature = (policy, key, cost = 1))]
    fn apeek<'py>(
        &self,
        py: Python<'py>,
        policy: &Bound<'py, Policy>,
        key: &str,
        cost: i64,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (charge, policies) = self.single(policy, key, cost)?;
        self.adecide(py, &[charge], policies, true)
    }

    /// Forgets what `key` has spent of `policy`, in one round trip on a remote backend; or what every
    /// key that begins with `prefix` has (`""` is all of them), in as many as it takes to find them.
    #[pyo3(signature = (policy, key = None, *, prefix = None))]
    fn reset(
        &self,
        py: Python<'_>,
        policy: &Bound<'_, Policy>,
        key: Option<&str>,
        prefix: Option<&str>,
    ) -> PyResult<()> {
        wait(py, self.resetting(policy, key, prefix)?)?.map_err(|error| errors::from_store(&error))
    }

    /// The same for `await`.
    #[pyo3(signature = (policy, key = None, *, prefix = None))]
    fn areset<'py>(
        &self,
        py: Python<'py>,
        policy: &Bound<'py, Policy>,
        key: Option<&str>,
        prefix: Option<&str>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.later(py, self.resetting(policy, key, prefix)?, nothing)
    }

    /// Takes permits of a concurrency limit and holds them, renewed, until they are released: use it
    /// in a `with` block. Waits for up to `timeout` seconds, first come first served in this process.
    #[pyo3(signature = (policy, key, cost = 1, *, timeout = 0.0))]
    fn hold(this: &Bound<'_, Self>, policy: &Bound<'_, Policy>, key: &str, cost: i64, timeout: f64) -> PyResult<Held> {
        let (py, (charge, policies)) = (this.py(), this.get().single(policy, key, cost)?);
        let asking = this.get().asking("hold", &[charge])?;
        let reply = holding(&asking.limiter, &charge, timeout)?;
        let held = asking.told_of_permits(py, wait(py, reply)?, tollway::Held::decision, &policies)?;
        Held::new(py, this.clone().unbind(), held, policies)
    }

    /// The same for `async with await limiter.ahold(...)`.
    #[pyo3(signature = (policy, key, cost = 1, *, timeout = 0.0))]
    fn ahold<'py>(
        this: &Bound<'py, Self>,
        policy: &Bound<'py, Policy>,
        key: &str,
        cost: i64,
        timeout: f64,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (py, (charge, policies)) = (this.py(), this.get().single(policy, key, cost)?);
        let mut asking = this.get().asking("hold", &[charge])?;
        let reply = holding(&asking.limiter, &charge, timeout)?;
        asking.goes_elsewhere(py)?;
        let limiter = this.clone().unbind();
        this.get().later(py, reply, move |py, answer| {
            let held = asking.told_of_permits(py, answer, tollway::Held::decision, &policies)?;
            Ok(Py::new(py, Held::new(py, limiter, held, policies)?)?.into_any())
        })
    }

    /// Raises `ConfigError` when the backend cannot keep a policy: for configuration, before the
    /// first request. Asks nobody.
    fn require(&self, policy: &Bound<'_, Policy>) -> PyResult<()> {
        self.shared()?.keeps(&policy.get().inner).map_err(|error| errors::from_config(&error))
    }

    /// Deletes at most `batch` states that say nothing any more from each backend, and says how many.
    /// Backends whose states go by themselves have none.
    #[pyo3(signature = (batch = 1000))]
    fn cleanup(&self, py: Python<'_>, batch: u32) -> PyResult<u64> {
        let reply = self.shared()?.cleanup(batch);
        wait(py, reply)?.map_err(|error| errors::from_store(&error))
    }

    /// Succeeds when the backend answers, else raises `StoreUnavailable`. One round trip.
    fn ping(&self, py: Python<'_>) -> PyResult<()> {
        let reply = self.shared()?.ping();
        wait(py, reply)?.map_err(|error| errors::from_store(&error))
    }

    /// The same for `await`.
    fn aping<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let reply = self.shared()?.ping();
        self.later(py, reply, nothing)
    }

    /// Pings every backend, all at once, and waits for at most `timeout` seconds. One round trip.
    #[pyo3(signature = (timeout = 1.0))]
    fn health(&self, py: Python<'_>, timeout: f64) -> PyResult<Health> {
        let found = self.shared()?.health(patience(timeout)?);
        Health::new(py, wait(py, found)?)
    }

    /// The same for `await`.
    #[pyo3(signature = (timeout = 1.0))]
    fn ahealth<'py>(&self, py: Python<'py>, timeout: f64) -> PyResult<Bound<'py, PyAny>> {
        let found = self.shared()?.health(patience(timeout)?);
        self.later(py, found, |py, found| Ok(Py::new(py, Health::new(py, found)?)?.into_any()))
    }

    /// Gives back what is leased and lets go of the backend's connection. Using the limiter again
    /// opens it again.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        match self.let_go() {
            // What cannot be given back stays charged; nobody who leaves can change that.
            Some(reply) => wait(py, reply).map(drop),
            None => Ok(()),
        }
    }

    fn __enter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    #[pyo3(signature = (*_args))]
    fn __exit__(&self, py: Python<'_>, _args: &Bound<'_, PyTuple>) -> PyResult<()> {
        self.close(py)
    }

    fn __aenter__(this: PyRef<'_, Self>) -> PyResult<Py<Ready>> {
        let py = this.py();
        Py::new(py, Ready::new(Ok(Py::<Self>::from(this).into_any())))
    }

    #[pyo3(signature = (*_args))]
    fn __aexit__<'py>(&self, py: Python<'py>, _args: &Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyAny>> {
        match self.let_go() {
            Some(reply) => self.later(py, reply, |py, _| Ok(py.None())),
            None => Ok(Bound::new(py, Ready::new(Ok(py.None())))?.into_any()),
        }
    }

    fn __repr__(&self) -> PyResult<String> {
        Ok(format!("Limiter(\"{}\", fail_mode=\"{}\")", self.url()?, self.recipe.fail_mode.name()))
    }
}

fn holding(limiter: &tollway::Limiter, charge: &Charge<'_>, timeout: f64) -> PyResult<Reply<tollway::Held>> {
    Ok(match patience(timeout)? {
        Duration::ZERO => limiter.hold(charge.policy, charge.key, charge.cost),
        patience => limiter.hold_within(charge.policy, charge.key, charge.cost, patience),
    })
}
