import sys; sys.path.insert(0,"/work/main/tests/kernel")
from test_nft_hop import net, direct, write, hop, VIP, NODE, NftTable, clients, targets
def test_tun(net):
    family=4
    node, director, link = net["node"], net["director"], "ivt-00000001"
    direct(director, family, method="-i")
    node.run("ip", "tunnel", "add", link, "mode", "ipip", "local", NODE[family], "remote", "192.0.2.2")
    node.run("ip", "link", "set", link, "up")
    node.sysctl(f"net/ipv4/conf/{link}/rp_filter", 2)
    elements = (("tunnel_links", link), (f"tunnel_vips{family}", VIP[family]))
    with NftTable() as table:
        write(node, table, hop(family, 1, 2, macs=(), links=(link,)), elements=elements)
    node.run("nft","-f","-",stdin="""table inet dbg { 
chain a { type filter hook prerouting priority -400; iifname "ivt-00000001" counter meta nftrace set 1; }
chain b { type filter hook prerouting priority -305;  iifname "ivt-00000001" counter; }
chain c { type filter hook prerouting priority -110;  iifname "ivt-00000001" counter; }
chain d { type filter hook prerouting priority -90;  iifname "ivt-00000001" counter; }
chain e { type filter hook forward priority -90;  iifname "ivt-00000001" counter; }
chain f { type filter hook postrouting priority -90;  counter; }
chain g { type filter hook input priority -90;  iifname "ivt-00000001" counter; }
}""")
    m=node.popen("nft","monitor","trace")
    import time; time.sleep(1)
    print(clients(net["client"], 1, VIP[family], 80))
    print(m.output())
    print(node.run("nft","list","table","inet","dbg").stdout)
    print(node.run("sysctl","-a","-r","conf.ivt.*(forwarding|rp_f)").stdout)
    print(node.run("nstat","-az").stdout)
    assert 0
