# SPDX-License-Identifier: Apache-2.0
"""wire.key against the kernel's own datapath, where there is one.

The kernel is asked to put flows with the keys and masks of the unit tests,
good and bad: it must take what wire.key takes, with the same masked key and
mask, and refuse what it refuses.  To run it under Debian's kernels:

    integration/guest/guest.sh -k 6.12 \\
        'modprobe openvswitch && build/venv/bin/python -m pytest \\
         tests/system/test_key_kernel.py'
"""

from __future__ import annotations

import errno
from collections.abc import Iterator

import key_cases as c
import keys as k
import pytest
from kernel_dp import Kernel, kernel_datapath

from dpif_bpf import abi
from dpif_bpf.errors import RequestError
from dpif_bpf.wire import uapi
from dpif_bpf.wire.key import decode as key
from dpif_bpf.wire.netlink import iter_attrs


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    with kernel_datapath() as made, k.all_keys():
        yield made


Case = tuple[bytes, bytes | None]


def cases() -> dict[str, Case]:
    found: dict[str, Case] = {}
    for kind, attrs in k.KEYS.items():
        found[f"{kind}, no mask"] = (attrs, None)
        found[f"{kind}, ones"] = (attrs, k.ones(attrs))
        found[f"{kind}, no bits"] = (attrs, b"")
    for kind, (attrs, _, _) in c.BAD_KEYS.items():
        found[f"bad: {kind}"] = (attrs, None)
    for i, (kind, mask, _) in enumerate(c.MASKS):
        found[f"mask {i} of {kind}"] = (k.KEYS[kind], mask)
    for i, (mask, _) in enumerate(c.TAG_MASKS):
        found[f"mask {i} of a tag"] = (k.KEYS["vlan"], mask)
    for i, (kind, mask, _, _) in enumerate(c.BAD_MASKS):
        found[f"bad mask {i} of {kind}"] = (k.KEYS[kind], mask)
    return found


CASES = cases()

# See key_match.py: the kernel refuses the one, and takes the key's TCI for
# the mask in the others.
TRUNCATED = {"vlan truncated, ones"}
ANY_TAG = {"mask 1 of a tag", "mask 2 of a tag"}


def ours(attrs: bytes, mask: bytes | None) -> key.Match | None:
    try:
        return key.decode_match(attrs, mask)
    except RequestError as error:
        assert error.errno == errno.EINVAL
        return None


def shows_all(attrs: bytes, mask: bytes | None) -> bool:
    """The kernel shows no mask of an original tuple that the key has not."""
    tuples = {uapi.OVS_KEY_ATTR_CT_ORIG_TUPLE_IPV4,
              uapi.OVS_KEY_ATTR_CT_ORIG_TUPLE_IPV6}
    asked, had = ({kind for kind, _, _ in iter_attrs(part)} & tuples
                  for part in (mask or b"", attrs))
    return asked <= had


def without_tunnel(image: int) -> int:
    """The kernel matches the lack of a tunnel always, OVS asks for it."""
    place = abi.KEY["tun_proto"]
    return (image & (1 << 8 * abi.KEY["tun_id"].offset) - 1
            & ~(0xff << 8 * place.offset))


@pytest.mark.parametrize("name", CASES)
def test_flow(kernel: Kernel, name: str) -> None:
    attrs, mask = CASES[name]
    code = kernel.put(attrs, mask)
    assert code in {0, errno.EINVAL}
    match = ours(attrs, mask)
    if name in TRUNCATED:
        assert (code == 0) is (match is None)
    else:
        assert (code == 0) is (match is not None)
    if code:
        return
    flow = kernel.take()
    key_back = flow[uapi.OVS_FLOW_ATTR_KEY]
    mask_back = flow[uapi.OVS_FLOW_ATTR_MASK]
    # Half of the port's mask is always set in what the kernel shows.
    back = ours(key_back, mask_back.replace(
        k.in_port(0xffff0000), k.in_port(0)))
    # A masked key need not be a valid one; and the kernel shows no mask of
    # an attribute that is zero.
    if (match is None or back is None or name in ANY_TAG
            or name.endswith("is not supported")
            or not shows_all(attrs, mask)):
        return
    assert without_tunnel(back.mask) == without_tunnel(match.mask)
    assert without_tunnel(back.key) == without_tunnel(match.key)


@pytest.mark.parametrize("kind", k.KEYS | {
    kind: attrs for kind, (attrs, _, _) in c.BAD_KEYS.items()
    if "CT_ORIG" not in kind and kind != "type 0"})
def test_execute(kernel: Kernel, kind: str) -> None:
    if "tuple" in kind:
        # Both hold it to the packet, which is neither of these.
        assert kernel.execute(k.KEYS[kind]) == errno.EINVAL
        return
    attrs = k.KEYS.get(kind) or c.BAD_KEYS[kind][0]
    code = kernel.execute(attrs)
    assert code in {0, errno.EINVAL, errno.ENODEV}
    try:
        key.decode_metadata(attrs)
    except RequestError:
        assert code == errno.EINVAL
    else:
        assert code != errno.EINVAL
