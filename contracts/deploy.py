"""Put a network's contracts on a chain, step by step; a deployment that broke off goes on where it was.

Before a contract's transaction is sent, the address that it will have is kept, and afterwards that it is there: so
whoever was interrupted finds it again and deploys nothing twice. What is bound is asked of the chain. Blocking.
"""

import time
from collections.abc import Callable

import msgspec
from eth_hash.auto import keccak
from msgspec.structs import astuple, replace

from contracts.artifacts import load_artifact
from contracts.bindings import Compute, EmissionSource, Mor, Registry, compute_arguments
from contracts.budget import Economics, Schedule
from contracts.client import ChainClient
from contracts.deployment_file import Deployed, DeploymentFile, Pending
from contracts.errors import ChainUnavailable, DeploymentConflict
from contracts.signing import Key
from contracts.typed_data import ZERO_ADDRESS, Address

ADOPT_S = 60.0
"""How long a deployment that an interrupted run may have sent is waited for."""


class RegistryTerms(msgspec.Struct, frozen=True):
    """What a registry is deployed with: seconds and percent."""

    unbonding_s: int
    slash_percent: int
    finder_percent: int
    rescue_delay_s: int
    rescue_notice_s: int


class Deployment:
    """A network's contracts in the making; ``keep`` is given the file's new content after every step.

    Each step does only what has not been done. Every one raises :class:`DeploymentConflict` where what is there is not
    what is wanted, :class:`~contracts.errors.ChainUnavailable` and :class:`~contracts.errors.TransactionReverted`.
    """

    def __init__(
        self,
        client: ChainClient,
        key: Key,
        *,
        file: DeploymentFile | None = None,
        keep: Callable[[DeploymentFile], None] = lambda _: None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        chain_id = client.chain_id()
        if file is not None and (file.chain_id, file.deployer) != (chain_id, _hex(key.address)):
            wanted = f"chain {chain_id} and key {_hex(key.address)}"
            raise DeploymentConflict("address file", f"is of chain {file.chain_id} and {file.deployer}, not {wanted}")
        self._client = client
        self._key = key
        self._keep_file = keep
        self._say = say
        self.file = file or DeploymentFile(chain_id, _hex(key.address))

    def token(self, existing: Address | None = None) -> Mor:
        """The token: one that is there, or a test network's own."""
        if existing is None:
            if self.file.token is not None:
                raise DeploymentConflict("token", f"{self.file.token} was used so far, and none is named now")
            return Mor(self._client, self._deploy("mor"))
        if "mor" in self.file.contracts or self.file.token not in {None, _hex(existing)}:
            used = self.file.token or self.file.contracts["mor"].address
            raise DeploymentConflict("token", f"{used} was used so far, not {_hex(existing)}")
        if not self._client.code(existing):
            raise DeploymentConflict("token", f"there is no contract at {_hex(existing)}")
        self._keep(replace(self.file, token=_hex(existing)))
        return Mor(self._client, existing)

    def registry(self, terms: RegistryTerms) -> Registry:
        """The staking registry, for the token."""
        arguments = (self.file.address_of("mor"), *astuple(terms))
        return Registry(self._client, self._deploy("registry", *arguments))

    def begin_at(self, genesis_s: int) -> None:
        """Keep when slot 0 begins, Unix seconds: a run that goes on must not choose another time."""
        if genesis_s != self.file.genesis_s:
            self._keep(replace(self.file, genesis_s=genesis_s))

    def compute(self, economics: Economics, governor: Address = ZERO_ADDRESS, delay_s: int = 0) -> Compute:
        """The Compute Contract, for token and registry; the network's clock is its from now on."""
        mor, registry = self.file.address_of("mor"), self.file.address_of("registry")
        arguments = compute_arguments(mor, registry, economics, governor, delay_s)
        self.begin_at(economics.genesis_s)
        return Compute(self._client, self._deploy("compute", *arguments))

    def source(self, schedule: Schedule) -> EmissionSource:
        """A test network's emission source, for token and Compute Contract."""
        mor, compute = self.file.address_of("mor"), self.file.address_of("compute")
        return EmissionSource(self._client, self._deploy("emission_source", mor, compute, astuple(schedule)))

    def bind(self, source: Address | None = None) -> None:
        """Tell the registry of the Compute Contract, and that of where emissions are fetched."""
        registry = Registry(self._client, self.file.address_of("registry"))
        compute = Compute(self._client, self.file.address_of("compute"))
        bound = compute.source()
        if source is not None and bound == ZERO_ADDRESS:
            self._say("binding the emission source")
            compute.bind_source(self._key, source)
        elif source is not None and bound != source:
            raise DeploymentConflict("source", f"the Compute Contract asks {_hex(bound)}, not {_hex(source)}")
        known = registry.compute()
        if known == ZERO_ADDRESS:
            self._say("binding the registry")
            registry.bind(self._key, compute.address)
        elif known != compute.address:
            raise DeploymentConflict("registry", f"it is bound to {_hex(known)}, not to {_hex(compute.address)}")

    def _deploy(self, name: str, *arguments: object) -> Address:
        encoded = encoded_arguments(name, *arguments)
        if (held := self.file.contracts.get(name)) is not None:
            if held.arguments != encoded:
                raise DeploymentConflict(name, f"{held.address} was deployed with other parameters than these")
            if not self._client.code(held.raw_address):
                raise DeploymentConflict(name, f"there is no contract at {held.address} on this chain")
            return held.raw_address
        if (found := self._adopted(name, encoded)) is not None:
            return found
        nonce = self._client.transaction_count(self._key.address)
        expected = _hex(created_address(self._key.address, nonce))
        self._keep(replace(self.file, pending=Pending(name, nonce, expected, encoded)))
        self._say(f"deploying {name}")
        return self._note(name, self._client.deploy(self._key, name, *arguments), encoded)

    def _adopted(self, name: str, encoded: str) -> Address | None:
        """What a run before this one has sent without living to see it mined."""
        pending = self.file.pending
        if pending is None or pending.contract != name or pending.arguments != encoded:
            return None
        address = Address(bytes.fromhex(pending.address[2:]))
        deadline = time.monotonic() + ADOPT_S
        while self._client.transaction_count(self._key.address) > pending.nonce:
            if self._client.code(address):
                self._say(f"found {name} at {pending.address}")
                return self._note(name, address, encoded)
            if self._client.transaction_count(self._key.address, mined=True) > pending.nonce:
                return None  # something else, or a deployment that failed, has used the nonce
            if time.monotonic() > deadline:
                raise ChainUnavailable(self._client.url, f"{name} at {pending.address} was not mined in {ADOPT_S:g} s")
            time.sleep(0.2)
        return None

    def _note(self, name: str, address: Address, encoded: str) -> Address:
        deployed = Deployed(_hex(address), encoded, self._client.block_number())
        self._keep(replace(self.file, pending=None, contracts=self.file.contracts | {name: deployed}))
        return address

    def _keep(self, file: DeploymentFile) -> None:
        self.file = file
        self._keep_file(file)


def encoded_arguments(name: str, *arguments: object) -> str:
    """A constructor's arguments as an address file has them."""
    artifact = load_artifact(name)
    return _hex(artifact.encode_deployment(*arguments)[len(artifact.bytecode) // 2 :])


def created_address(deployer: Address, nonce: int) -> Address:
    """Where the contract stands that ``deployer`` creates by its transaction ``nonce``: keccak of the two in RLP."""
    number = nonce.to_bytes((nonce.bit_length() + 7) // 8, "big")
    item = number if len(number) == 1 and number[0] < 0x80 else bytes([0x80 + len(number)]) + number
    body = bytes([0x80 + 20]) + deployer + item
    return Address(keccak(bytes([0xC0 + len(body)]) + body)[12:])


def _hex(value: bytes) -> str:
    return "0x" + value.hex()
