"""From what people declare to what nodes must do, and back to a status. Pure and total: no IO, no clock, no exceptions.

``snapshot.Snapshot`` takes the objects and says whom each change concerns; ``compile.compile_virtual_service`` gives
plans or reasons, ``node_spec.compile_node`` what a node is told as a whole, ``group_status.compile_group`` a
DirectorGroup's status, and ``fold.fold`` a VirtualService's, from its plans and the nodes' reports.
"""
