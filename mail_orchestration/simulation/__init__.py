"""How long a release of any size would take, and cost: on paper, from measured rates.

scenario     what is simulated: the installation's settings, with what a scenario file puts in their place
rates        what one message costs each step, as it was measured
preparing    import, dedup and assembly
backing_off  how fast a relay takes mail in the long run that asks for less
costs        hosts, relays, storage
ceilings     mailcasters, hosts, relays and domains as ceilings of a flow (dispatch/flow.py)
retrying     deferred messages, from attempt to attempt
sending      from the queue to the last message's end
simulating   all of it, one size after the other
"""

from mail_orchestration.simulation.scenario import Scenario, read_scenario, scenario_of
from mail_orchestration.simulation.simulating import Simulation, simulate

__all__ = ["Scenario", "Simulation", "read_scenario", "scenario_of", "simulate"]
