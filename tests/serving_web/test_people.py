"""Who may do what: roles by tokens or by the word of a trusted proxy, and names that are written down."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
import requests
from brightness_model import write_image
from hypothesis import given
from hypothesis import strategies as st
from serving_rig import RigSource, until

from tests.serving_web.conftest import Web
from vad_dagster.service.people import Tokens, visitor_of
from vad_lib.inspection_db import InspectionDatabase
from vad_lib.inspection_db.audit import ROLES, newest_changes
from vad_lib.inspection_db.labels import labels_that_hold

TOKENS = Tokens(approver="all secret", reviewer="judge secret", viewer="look secret", proxy="proxy secret")


def _bearer(token: str, **more: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} | {name.replace("_", "-"): value for name, value in more.items()}


@pytest.fixture
def address(web: Web, source: RigSource, db: InspectionDatabase) -> str:
    """A service with all secrets and one prediction."""
    found = web(tokens=TOKENS)
    write_image(Path(source.lines["bottles"].folder) / "part.png", 200)
    until(lambda: db.count_predictions("bottles") == 1)
    return found


def test_a_viewer_looks_and_a_reviewer_judges(address: str, db: InspectionDatabase) -> None:
    here, said = f"{address}/lines/bottles/results/1", {"label": "NG", "kind": "crack", "person": "Kim"}
    assert requests.get(here, timeout=5).status_code == 401
    assert requests.get(here, headers=_bearer("look secret"), timeout=5).status_code == 200
    refused = requests.post(f"{here}/labels", json=said, headers=_bearer("look secret"), timeout=5)
    assert refused.status_code == 403
    assert "reviewer" in refused.json()["detail"]
    assert labels_that_hold(db, "bottles").empty
    assert requests.post(f"{here}/labels", json=said, headers=_bearer("judge secret"), timeout=5).status_code == 201
    (held,) = labels_that_hold(db, "bottles").itertuples()
    (change,) = newest_changes(db, "bottles").itertuples()
    assert (held.person, held.kind) == ("Kim", "crack")
    assert (change.person, change.role, change.action, change.subject) == ("Kim", "reviewer", "label", "1")


def test_what_a_trusted_proxy_says_is_believed_and_nobody_elses_word(address: str, db: InspectionDatabase) -> None:
    post, said = f"{address}/lines/bottles/results/1/labels", {"label": "OK", "person": "somebody else"}
    forwarded = {"X_Forwarded_User": "lee", "X_Forwarded_Groups": "staff, vad-reviewer"}
    assert requests.post(post, json=said, headers=_bearer("proxy secret", **forwarded), timeout=5).status_code == 201
    assert list(labels_that_hold(db, "bottles")["person"]) == ["lee"]
    in_no_group = _bearer("proxy secret", X_Forwarded_User="lee", X_Forwarded_Groups="staff")
    assert requests.get(f"{address}/", headers=in_no_group, timeout=5).status_code == 403
    claims_more = _bearer("look secret", X_Forwarded_User="lee", X_Forwarded_Groups="approver")
    assert requests.post(post, json=said, headers=claims_more, timeout=5).status_code == 403


def test_a_browsers_login_names_the_person_and_nobody_changes_things_without_a_name(
    address: str, db: InspectionDatabase
) -> None:
    post = f"{address}/lines/bottles/results/1/labels"
    login = base64.b64encode(b"Kim Minsu:judge secret").decode()
    answer = requests.post(post, json={"label": "unsure"}, headers={"Authorization": f"Basic {login}"}, timeout=5)
    assert answer.status_code == 201
    assert newest_changes(db)["person"][0] == "Kim Minsu"
    assert labels_that_hold(db, "bottles").empty  # who is unsure leaves nothing that holds
    nobody = requests.post(post, json={"label": "OK"}, headers=_bearer("judge secret"), timeout=5)
    assert (nobody.status_code, "Say who you are" in nobody.text) == (422, True)


@given(
    token=st.sampled_from(["all secret", "judge secret", "look secret", "proxy secret", "", "wrong"]),
    groups=st.lists(st.sampled_from(["viewer", "vad-approver", "staff", "reviewer", ""])).map(",".join),
    user=st.sampled_from(["", "lee"]),
)
def test_no_role_comes_from_anything_but_a_secret(token: str, groups: str, user: str) -> None:
    headers = {"authorization": f"Bearer {token}", "x-forwarded-user": user, "x-forwarded-groups": groups}
    found = visitor_of(TOKENS, headers)
    own = {"all secret": "approver", "judge secret": "reviewer", "look secret": "viewer"}
    if token == "proxy secret":
        assert found.role in ("", *ROLES)
        assert not found.role or (user and found.role in groups)
    else:
        assert found.role == own.get(token, "")


def test_pages_are_shown_in_the_language_that_a_browser_asks_for(address: str) -> None:
    page = requests.get(f"{address}/", headers=_bearer("look secret", Accept_Language="fr, xx;q=0.5"), timeout=5)
    assert '<html lang="en">' in page.text
