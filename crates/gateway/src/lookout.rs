//! Looks for keys in a body while it passes.

use std::sync::Arc;

use crate::meter::RequestId;
use crate::notice::{Notice, Notices};
use crate::scan::{Detector, Stream};
use crate::table::Grant;

/// Looks at one body, and tells of the first key in it.
pub(crate) struct Lookout {
    stream: Stream,
    notices: Notices,
    grant: Arc<Grant>,
    route: Arc<str>,
    request: RequestId,
    in_reply: bool,
    told: bool,
}

impl Lookout {
    pub(crate) fn new(
        detector: &Arc<Detector>,
        notices: &Notices,
        grant: &Arc<Grant>,
        route: &Arc<str>,
        request: RequestId,
    ) -> Self {
        Self {
            stream: detector.stream(),
            notices: notices.clone(),
            grant: Arc::clone(grant),
            route: Arc::clone(route),
            request,
            in_reply: true,
            told: false,
        }
    }

    /// The same for what the client sends.
    pub(crate) fn of_request(mut self) -> Self {
        self.in_reply = false;
        self
    }

    /// Looks at a piece of a body that passes by.
    pub(crate) fn piece(&mut self, piece: &[u8]) {
        if !self.told {
            self.whole(piece);
        }
    }

    /// Looks at the data of an event.
    pub(crate) fn event(&mut self, data: &[u8]) {
        if !self.told {
            let leak = self.stream.push_event(data);
            self.tell(leak);
        }
    }

    /// Looks at a reply that came as a whole.
    pub(crate) fn whole(&mut self, body: &[u8]) {
        let leak = self.stream.push(body);
        self.tell(leak);
    }

    fn tell(&mut self, leak: Option<crate::scan::Leak>) {
        let Some(leak) = leak else { return };
        self.told = true;
        self.notices.send(Notice::Exposed {
            project: self.grant.project.name.to_string(),
            key: self.grant.name.to_string(),
            route: self.route.to_string(),
            receipt: self.request.to_string(),
            in_reply: self.in_reply,
            leak,
        });
    }
}
