"""Our nftables tables as values: static rules by feature, sets and maps that hold the VIPs, second-hop chains. Pure."""
