"""Keys that sign mail: read from files and variables, refused by name, never shown (spec 2.6)."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from mail_orchestration.composition.checking import check
from mail_orchestration.composition.dkim_checking import remarks_on_signing
from mail_orchestration.kernel.dkim_keys import Algorithm, keys_for, load_dkim_key, load_dkim_keys
from mail_orchestration.kernel.dkim_settings import DkimSettings
from mail_orchestration.kernel.errors import BadSettings
from mail_orchestration.kernel.settings import Settings, load_settings
from tests.dkim_world import private_key, section
from tests.unit.composition_campaigns import campaign

SHORT_KEY = """-----BEGIN RSA PRIVATE KEY-----
MIIBygIBAAJhAMjF3z8t3poPEIjngk+3BdcC5PHowL8TvQG/UU81pPSA/OOc/eCN
oQLZd9hjGJB2Vnabmd1ZBIKmdA2nBRrIGA6FOroC3XXldis/kaxvHJilkG/tdwhG
Fif/LhQHRhpFDQIDAQABAmBDFaq0p5T7kRELTZ/DFvqCj1sEYasVrXi3/r8iYmBN
ulPFkg1aXLhyBUwAJ4xrqL4/su3Ref1oHnNsNW/NUErUJO3nA8lhK4C2D/AYEEUI
bEPt2S2PCXDRRbv3ZDgkYFkCMQDoNVvIx9EZLIsXHxvGjW7Jmz+7oyBqv1P6UEPj
jO8t/vHa7dpuYJIXolxlw1CWO2cCMQDdV/xT7qsTS4b3CQWchcJ+CXNuNaXWmesW
P9OeR2GqU2zfVmjPN5vVjXXxgeavZ2sCMEA80qFetbezHN9Omc55vdZD/oOYAxXE
zCSJI97FVD1zM9EOz8iNKp0jK1Bzkc2drQIxAKU6evfEoBwlMzjRmUjAaPFg6LQK
hCNwfpb7SmNK8dMNt6X4gQC+iCugD70atTOWxQIwUR0mgobVqCP6xAKojYmdqGdC
/DsnMsiRFeRW/o3kpxFigJ16SCoPTFMwx8KeAgwP
-----END RSA PRIVATE KEY-----
"""
"""768 bits."""


def of(folder: Path, pem: str) -> DkimSettings:
    return section(folder, "shop.example", "s1", pem)


def pkcs1(pem: str) -> str:
    key = load_pem_private_key(pem.encode(), None)
    return key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).decode()


def other_kinds() -> dict[str, tuple[str, str]]:
    key = load_pem_private_key(private_key(Algorithm.ED25519).encode(), None)
    elliptic = ec.generate_private_key(ec.SECP256R1())
    return {
        "another kind": (
            elliptic.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
            "holds a key of the kind",
        ),
        "public": (
            key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(),
            "holds no private key",
        ),
        "encrypted": (
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"pw")).decode(),
            "is encrypted",
        ),
        "short": (SHORT_KEY, "an RSA key of 768 bits"),
        "cut off": (private_key(Algorithm.RSA)[:300], "holds no private key"),
        "words": ("xyzzy plugh", "holds no private key"),
        "empty": ("", "holds no private key"),
    }


@pytest.mark.rule("2.6")
@pytest.mark.parametrize("kind", list(other_kinds()))
def test_a_key_that_cannot_sign_is_refused_by_name_and_not_shown(tmp_path: Path, kind: str) -> None:
    text, told = other_kinds()[kind]
    described = of(tmp_path, text)
    with pytest.raises(
        BadSettings, match=re.escape(f"dkim, s1 of shop.example: key {described.key}")
    ) as caught:
        load_dkim_keys([described])
    assert told in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    for line in text.split():
        assert len(line) < 20 or line not in str(caught.value)


@pytest.mark.rule("2.6")
def test_a_key_whose_parts_do_not_fit_is_refused(tmp_path: Path) -> None:
    made = (rsa.generate_private_key(65537, 1024).private_numbers() for _ in range(2))
    # An exponent that is not below the modulus cannot even be written down.
    others, numbers = sorted(made, key=lambda each: each.public_numbers.n)
    mixed = rsa.RSAPrivateNumbers(
        p=numbers.p,
        q=numbers.q,
        d=others.d,
        dmp1=others.dmp1,
        dmq1=others.dmq1,
        iqmp=others.iqmp,
        public_numbers=numbers.public_numbers,
    ).private_key(unsafe_skip_rsa_key_validation=True)
    pem = mixed.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    with pytest.raises(BadSettings, match="whose parts do not fit together"):
        load_dkim_key(of(tmp_path, pem))


def test_a_file_that_is_not_there_and_a_variable_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = DkimSettings(domain="shop.example", selector="s1", key=Path("/nowhere/s1.pem"))
    with pytest.raises(BadSettings, match=r"key /nowhere/s1\.pem cannot be read: No such file"):
        load_dkim_key(absent)
    monkeypatch.delenv("SHOP_KEY", raising=False)
    unset = DkimSettings(domain="shop.example", selector="s1", key_variable="SHOP_KEY")
    with pytest.raises(BadSettings, match="key_variable SHOP_KEY is not in the environment"):
        load_dkim_key(unset)


@pytest.mark.rule("2.6")
@pytest.mark.parametrize("form", ["pkcs8", "pkcs1", "one line"])
def test_forms_of_a_key_and_its_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    pem = private_key(Algorithm.RSA)
    expected = load_dkim_key(of(tmp_path, pem))
    text = pkcs1(pem) if form == "pkcs1" else pem
    if form == "one line":
        text = base64.b64encode(expected.private.reveal()).decode()
    monkeypatch.setenv("SHOP_KEY", text)
    found = load_dkim_key(DkimSettings(domain="shop.example", selector="s1", key_variable="SHOP_KEY"))
    assert found == expected
    assert (found.bits, found.algorithm) == (2048, Algorithm.RSA)
    strings = found.record_strings()
    assert "".join(strings) == found.record()
    assert [len(each) for each in strings[:-1]] == [255]


@pytest.mark.rule("2.6")
def test_a_domain_signs_for_itself_and_for_those_below_it_that_have_no_key(tmp_path: Path) -> None:
    described = [
        DkimSettings(domain=domain, selector=selector, key=tmp_path / "k")
        for domain, selector in (("shop.example", "a"), ("News.Shop.example", "b"), ("shop.example", "c"))
    ]

    def selectors(domain: str) -> list[str]:
        return [each.selector for each in keys_for(domain, described)]

    assert selectors("shop.example") == ["a", "c"]
    assert selectors("deep.mail.SHOP.example") == ["a", "c"]
    assert selectors("news.shop.example") == selectors("x.news.shop.example") == ["b"]
    assert selectors("myshop.example") == selectors("example") == selectors("shop.example.org") == []


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("- {domain: shop.example, selector: s1}", "name key"),
        ("- {domain: shop.example, selector: s1, key: a, key_variable: B}", "name key"),
        ("- {domain: shop, selector: s1, key: a}", "must be a domain"),
        ("- {domain: shöp.example, selector: s1, key: a}", "must be a domain"),
        ("- {domain: shop.example, selector: s_1, key: a}", "must have letters, digits and dashes"),
        ("- {domain: shop.example, selector: s1, file: a}", "unknown key"),
        (
            "- {domain: shop.example, selector: s1, key: a}\n- {domain: SHOP.example, selector: S1, key: b}",
            "shop.example has selector s1 twice",
        ),
        (
            f"- {{domain: {'a' * 60}.{'b' * 60}.{'c' * 60}.example, selector: {'d' * 63}, key: a}}",
            "longer than 253",
        ),
    ],
)
def test_bad_settings_are_named(tmp_path: Path, lines: str, told: str) -> None:
    file = tmp_path / "mail_orchestration.yaml"
    file.write_text(f"dkim:\n{lines}\n", encoding="utf-8")
    with pytest.raises(BadSettings, match=rf"{re.escape(str(file))}:\d+: .*{re.escape(told)}"):
        load_settings(file)


def test_the_file_counts_from_the_settings(tmp_path: Path) -> None:
    file = tmp_path / "mail_orchestration.yaml"
    file.write_text("dkim: [{domain: shop.example, selector: s1, key: dkim/s1.pem}]\n", encoding="utf-8")
    (described,) = load_settings(file).dkim
    assert described.key == tmp_path / "dkim" / "s1.pem"


@pytest.mark.rule("2.6")
def test_what_somebody_should_know_of_the_signatures(tmp_path: Path) -> None:
    def told(*described: DkimSettings) -> list[str]:
        return list(remarks_on_signing("shop.example", described))

    well = of(tmp_path, private_key(Algorithm.ED25519))
    assert well.key is not None
    assert told(well) == []
    elsewhere = DkimSettings(domain="other.example", selector="s1", key=well.key)
    assert told(elsewhere) == told() != []
    well.key.chmod(0o644)
    assert told(well) == [f"{well.place} can be read or written by every user: take that away with chmod 600"]
    well.key.chmod(0o640)
    assert told(well) == [], "a group that reads it is somebody's intention"
    pem = rsa.generate_private_key(65537, 1024).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    assert "has 1024 bits" in told(section(tmp_path, "shop.example", "s2", pem.decode()))[0]
    gone = DkimSettings(domain="shop.example", selector="s3", key=tmp_path / "gone")
    assert "cannot be read: No such file" in told(gone)[0]


@pytest.mark.rule("2.6")
def test_check_warns_of_messages_that_leave_unsigned() -> None:
    letter = campaign(text="Hello\n{{ unsubscribe_url }}\n")
    assert check(letter) == [], "nobody knows the settings"
    assert [str(each) for each in check(letter, settings=Settings())] == [
        "warning: mail_orchestration.yaml: dkim: no key for shop.example, so messages leave unsigned unless your relay "
        "signs them"
    ]
