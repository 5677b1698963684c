"""Who asks the inference service, and what that person may do.

There are three roles, and each may do what the one before may: a *viewer* looks, a *reviewer* says what parts are and
sends images, an *approver* pauses lines and changes thresholds and versions. A role comes with a token, or with groups
that a trusted proxy names. Without any token only this machine is let in, and everybody on it is an approver.
"""

# No `from __future__ import annotations`: FastAPI reads the annotations of handlers.

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, HTTPException, Request

from vad_dagster.service.page_parts import refused_as_422
from vad_dagster.web_gate import FORWARDED_GROUPS, FORWARDED_USER, credentials, is_token
from vad_lib.inspection_db.audit import APPROVER, REVIEWER, ROLES, VIEWER, Actor

GROUP_PREFIX = "vad-"
"""May stand before the name of a role where a proxy names groups."""


@dataclass(frozen=True)
class Tokens:
    """The secrets that let people in; an empty one lets nobody in.

    Attributes:
        approver: of those who may do everything.
        reviewer: of those who judge.
        viewer: of those who look.
        proxy: of the one proxy whose word about people is believed.
    """

    approver: str = field(default="", repr=False)
    reviewer: str = field(default="", repr=False)
    viewer: str = field(default="", repr=False)
    proxy: str = field(default="", repr=False)

    def given(self) -> list[str]:
        """Return those that are set."""
        return [token for token in (self.approver, self.reviewer, self.viewer, self.proxy) if token]


@dataclass(frozen=True)
class Visitor:
    """Who asks.

    Attributes:
        name: as the proxy or the browser's login says it; empty: nobody said it.
        role: one of ``ROLES``; empty: none.
        is_known: whether the proxy says the name. Then no other name is taken.
    """

    name: str
    role: str
    is_known: bool = False

    def may(self, role: str) -> bool:
        """Return whether this is a person of that role, or of one that may more."""
        return self.role in ROLES[ROLES.index(role) :]

    def named(self, typed: str, otherwise: str = "") -> str:
        """Return the name under which something is written down: the proxy's, the typed one, or the login's."""
        return self.name if self.is_known else typed.strip() or self.name or otherwise

    def actor(self, typed: str = "") -> Actor:
        """Return who changes something; answers 422 where nobody says a name."""
        with refused_as_422():
            return Actor(self.named(typed), self.role)


def visitor_of(tokens: Tokens, headers: Mapping[str, str]) -> Visitor:
    """Return who sends a request with these headers.

    >>> visitor_of(Tokens(viewer="secret"), {"authorization": "Bearer secret"})
    Visitor(name='', role='viewer', is_known=False)
    """
    user, given = credentials(headers.get("authorization", ""))
    if is_token(given, tokens.proxy):
        groups = {
            group.strip().lower().removeprefix(GROUP_PREFIX) for group in headers.get(FORWARDED_GROUPS, "").split(",")
        }
        role = next((role for role in reversed(ROLES) if role in groups), "")
        name = headers.get(FORWARDED_USER, "").strip()
        return Visitor(name, role if name else "", is_known=True)
    for role, token in ((APPROVER, tokens.approver), (REVIEWER, tokens.reviewer), (VIEWER, tokens.viewer)):
        if is_token(given, token):
            return Visitor(user, role)
    return Visitor(user, "" if tokens.given() else APPROVER)


def visitor(request: Request) -> Visitor:
    """Return who sends a request, as ``check_role`` found it."""
    found: Visitor = request.state.visitor
    return found


async def check_role(request: Request) -> None:
    """Find out who sends a request. Who looks has to be a viewer, who sends anything a reviewer; else it answers 403.

    Of every request, so that a new page is guarded before anybody thinks of it.
    """
    rules = request.app.state
    request.state.visitor = found = visitor_of(rules.tokens, request.headers)
    if request.url.path not in rules.open_paths:
        _require(found, VIEWER if request.method in ("GET", "HEAD") else REVIEWER)


def approver(found: Annotated[Visitor, Depends(visitor)]) -> Visitor:
    """Return who sends a request, who has to be an approver; else the answer is 403."""
    _require(found, APPROVER)
    return found


def _require(found: Visitor, role: str) -> None:
    if not found.may(role):
        who = f"{found.name or 'You'}: " if found.name else ""
        has = f"with the role {found.role}" if found.role else "without a role"
        raise HTTPException(403, f"{who}this needs the role {role}, and you are here {has}.")


Who = Annotated[Visitor, Depends(visitor)]
WhoApproves = Annotated[Visitor, Depends(approver)]
