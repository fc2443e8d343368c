# The test guest's services; no modules, for it has none.
#   7/tcp 7/udp   says NAME BOOT CLIENT, where BOOT is another after each boot; what comes then by tcp is echoed
#   8/tcp         does what it is told: reboot, renew
my ($name) = @ARGV;
my ($AF_INET, $STREAM, $DATAGRAM, $SOL_SOCKET, $SO_REUSEADDR) = (2, 1, 2, 1, 2);
my %does = (reboot => 'reboot -f', renew => 'kill -USR1 $(cat /run/udhcpc.pid)');

open my $file, '<', '/proc/sys/kernel/random/boot_id' or die "boot_id: $!";
my $boot = substr <$file>, 0, 8;
$SIG{CHLD} = 'IGNORE';

sub bound {
    my ($type, $port) = @_;
    socket my $socket, $AF_INET, $type, 0 or die "socket: $!";
    setsockopt $socket, $SOL_SOCKET, $SO_REUSEADDR, pack 'l', 1 or die "setsockopt: $!";
    bind $socket, pack 'S n x4 x8', $AF_INET, $port or die "bind $port: $!";
    return $socket;
}

sub greeting {
    my (undef, undef, @address) = unpack 'S n C4', shift;
    return join(' ', $name, $boot, join '.', @address) . "\n";
}

sub serve_tcp {
    my ($port, $answer) = @_;
    my $socket = bound($STREAM, $port);
    listen $socket, 16 or die "listen: $!";
    return if fork;
    while (1) {
        my $client = accept my $connection, $socket or next;
        next if fork;
        $answer->($connection, $client);
        exit;
    }
}

serve_tcp(7, sub {
    my ($connection, $client) = @_;
    my $text = greeting($client);
    do { syswrite $connection, $text } while sysread $connection, $text, 4096;
});
serve_tcp(8, sub {
    my ($connection) = @_;
    chomp(my $command = <$connection>);
    system $does{$command} // 'false';
});

my $socket = bound($DATAGRAM, 7);
while (1) {
    my $client = recv $socket, my $payload, 4096, 0;
    send $socket, greeting($client), 0, $client if defined $client;
}
