//! Who is asking, as Python sees it.

use std::net::IpAddr;

use pyo3::prelude::*;

/// Who is asking, and for what. What is not known is left out.
#[pyclass(frozen, eq, module = "tollway.rules")]
#[derive(PartialEq)]
pub struct Subject {
    address: Option<IpAddr>,
    texts: [Option<Box<str>>; 6],
    path_charged: bool,
}

impl Subject {
    pub(super) fn borrow(&self) -> tollway::rules::Subject<'_> {
        let [user, key, org, tier, method, path] = &self.texts;
        tollway::rules::Subject {
            address: self.address,
            user: user.as_deref(),
            key: key.as_deref(),
            org: org.as_deref(),
            tier: tier.as_deref(),
            method: method.as_deref(),
            path: path.as_deref(),
            path_charged: self.path_charged,
        }
    }
}

#[pymethods]
impl Subject {
    #[new]
    #[pyo3(signature = (*, address = None, user = None, key = None, org = None, tier = None, method = None, path = None,
        path_charged = false))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of the Python class")]
    fn new(
        address: Option<&str>,
        user: Option<&Bound<'_, PyAny>>,
        key: Option<&Bound<'_, PyAny>>,
        org: Option<&Bound<'_, PyAny>>,
        tier: Option<&Bound<'_, PyAny>>,
        method: Option<&Bound<'_, PyAny>>,
        path: Option<&Bound<'_, PyAny>>,
        path_charged: bool,
    ) -> PyResult<Self> {
        let text = |value: Option<&Bound<'_, PyAny>>| -> PyResult<Option<Box<str>>> {
            let Some(value) = value else { return Ok(None) };
            let text = value.str()?;
            let text = text.to_str()?;
            Ok((!text.is_empty()).then(|| text.into()))
        };
        Ok(Self {
            // A peer on a Unix socket has no address; there is nothing to look up then.
            address: address.and_then(|address| address.parse().ok()),
            texts: [text(user)?, text(key)?, text(org)?, text(tier)?, text(method)?, text(path)?],
            path_charged,
        })
    }

    /// The client's address; `None` when it has none.
    #[getter]
    fn address(&self) -> Option<String> {
        self.address.map(|address| address.to_string())
    }

    /// The user's id.
    #[getter]
    fn user(&self) -> Option<&str> {
        self.texts[0].as_deref()
    }

    /// The API key's hash.
    #[getter]
    fn key(&self) -> Option<&str> {
        self.texts[1].as_deref()
    }

    /// The organisation.
    #[getter]
    fn org(&self) -> Option<&str> {
        self.texts[2].as_deref()
    }

    /// The tier.
    #[getter]
    fn tier(&self) -> Option<&str> {
        self.texts[3].as_deref()
    }

    /// The HTTP method.
    #[getter]
    fn method(&self) -> Option<&str> {
        self.texts[4].as_deref()
    }

    /// The path.
    #[getter]
    fn path(&self) -> Option<&str> {
        self.texts[5].as_deref()
    }

    /// Whether this request was charged what its path asks for already.
    #[getter]
    fn path_charged(&self) -> bool {
        self.path_charged
    }

    fn __repr__(&self) -> String {
        let names = ["user", "key", "org", "tier", "method", "path"];
        let address = self.address.map(|address| format!("address=\"{address}\""));
        let texts = names.iter().zip(&self.texts);
        let texts = texts.filter_map(|(name, text)| text.as_ref().map(|text| format!("{name}={text:?}")));
        format!("Subject({})", address.into_iter().chain(texts).collect::<Vec<_>>().join(", "))
    }
}
